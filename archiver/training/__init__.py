"""Train the embedded profile from tar shards of photographs, on a CPU or on one accelerator."""

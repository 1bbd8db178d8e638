"""Pure functions between pictures' conditions and records: bitstream, entropy coding, maps, embeddings, schemes."""

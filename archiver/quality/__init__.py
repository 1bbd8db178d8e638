"""How good regenerated pictures are, measured beside classical codecs at the same bytes; docs/benchmarks.md."""

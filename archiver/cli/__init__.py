"""The command line: one module per verb group; each parses, calls one function and prints."""

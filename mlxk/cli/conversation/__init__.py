"""The conversation of `mlxk run MODEL` at a terminal."""

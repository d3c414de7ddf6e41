"""mlxk: a local server for several MLX language models, each in a process of its own."""

__version__ = "0.1.0"

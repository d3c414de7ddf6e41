"""Models on disk: which there are, which one a name means, and whether it can be used. Never MLX."""

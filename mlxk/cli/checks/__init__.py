"""What `mlxk doctor` looks at: one file per question. They look, and change nothing."""

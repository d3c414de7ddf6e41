"""The front's processes and rules: children, switchboard, one worker's life, the pool and its policies."""

"""What can be set and where it comes from; paths, units, logging, and who is running."""

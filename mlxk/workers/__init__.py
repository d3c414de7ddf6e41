"""One model's process: its front door (`protocol`), its I/O thread, its engine and its text."""

"""Text that comes from outside: read as numbers and paths, and shown on a terminal."""

"""Text that comes from outside: read as numbers, and shown on a terminal."""

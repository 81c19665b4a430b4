"""The blind test's results: reading its files, pooling them, and what they say as tables and as a page."""

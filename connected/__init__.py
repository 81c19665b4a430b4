"""What only a machine with a network can show: the real weights, data and published figures, checked by one command.

`python -m connected` at the repository's root, or `make connected`; `__main__.py` is the entry.
"""

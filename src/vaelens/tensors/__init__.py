"""Tensor files, read without trust: what a file really is, whether it is whole, its names, shapes and values."""

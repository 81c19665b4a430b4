"""Pickled files of tensors, read by a machine of our own that runs nothing: it builds data and keeps names.

A pickle is a program. Python's unpickler imports and calls what that program names; this one knows a fixed list of
names that build tensors and plain data (`named_globals.py`) and calls none of the others. Start at `opening.py`.
"""

"""Families: one module per VAE architecture, holding all that fixes it. To add one is one file here.

`family.py` is what a module declares, `layouts.py` how files name tensors, `discovery.py` finds the modules, `spec.py`
is what describes one VAE.
"""

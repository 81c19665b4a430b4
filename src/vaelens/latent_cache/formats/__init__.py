"""A cache's latents as other trainers' files: one module per trainer, a line in `known.py` and in `writing.py`."""

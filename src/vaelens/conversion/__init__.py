"""Turning a VAE file into another: layouts, precisions, whole checkpoints, other runtimes. Each result is checked."""

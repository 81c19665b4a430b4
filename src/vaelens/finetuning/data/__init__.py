"""The images of a training: its sources, the held-out ones, and the batches in their order."""

"""Weights: which VAEs are known, how files name their tensors, and reading them strictly."""

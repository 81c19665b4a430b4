"""Weights: which VAEs are known (`vaes.toml`), reading one strictly, and fingerprints."""

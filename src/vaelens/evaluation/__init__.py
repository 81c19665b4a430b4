"""Evaluation: a dataset through VAEs, measured by a preset of metrics. `run.evaluate` is the entry."""

"""The fixtures of small comparisons."""

from support.comparisons import model, photo, vaes  # noqa: F401

"""The fixtures of small comparisons."""

from support.comparisons import model, one_thread, photo, vaes  # noqa: F401

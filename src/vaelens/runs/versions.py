"""Which versions a result was made with, and which of them move its last digits."""

import functools
import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = (
    "vaelens", "torch", "triton", "numpy", "pillow", "opencv-python-headless", "safetensors", "huggingface_hub",
    "diffusers", "transformers",
)  # fmt: skip

# Their versions change the numbers.
DECISIVE = ("vaelens", "torch", "numpy", "pillow", "opencv-python-headless", "transformers")


def versions() -> dict[str, str]:
    """Of vaelens, Python and the libraries that make pixels, those that are installed."""
    return {
        **{name: found for name in LIBRARIES if (found := _version(name)) is not None},
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


@functools.cache  # each look-up reads a file; a new version takes effect in the next process
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

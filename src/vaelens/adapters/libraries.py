"""diffusers and transformers, imported so that they work beside what else is installed, and quiet while we use them.

Both take seconds to import: ask for them when something is about to be generated, not before.
"""

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from vaelens.errors import UsageError
from vaelens.process import Shared, without_warnings

owns_process = False  # set by the command line: there a torchvision that can't be imported is hidden for good


@cache
def transformers() -> Any:
    """The module. Raises UsageError as `check_torchvision`."""
    check_torchvision()
    with without_warnings:  # deprecations between these libraries are nothing that a user can fix
        import_module("transformers.utils.logging")
        return import_module("transformers")


@cache
def diffusers() -> Any:
    """The module, with transformers loaded before it. Raises UsageError as `check_torchvision`."""
    transformers()
    with without_warnings:
        import_module("diffusers.utils.logging")
        with quiet():
            import_module("transformers.models.clip")
            return import_module("diffusers")


def check_torchvision() -> None:
    """Raises UsageError if torchvision is installed and can't be imported, as when it was built for another torch.

    transformers imports it wherever it finds it, though nothing that we ask of it needs it, and diffusers fails with
    transformers. A command hides such a torchvision; in a user's process nothing may be changed.
    """
    if "torchvision" in sys.modules or find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
    except Exception as error:  # an ImportError, or a RuntimeError about missing operators
        if not owns_process:
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise UsageError(
                f"torchvision is installed and can't be imported ({reason}); diffusers and transformers need it to "
                f"work or to be absent. Install the torchvision built for torch {version('torch')}, or uninstall it."
            ) from error
        sys.modules["torchvision"] = None  # type: ignore[assignment]  (how Python spells "not installed")


def quiet() -> Shared:
    """A context in which neither library writes lines, progress bars or warnings; also for several threads at once."""
    return _QUIET


@contextmanager
def _silenced() -> Generator[None]:
    loaded = [name for name in ("transformers", "diffusers") if f"{name}.utils.logging" in sys.modules]
    modules: list[Any] = [sys.modules[f"{name}.utils.logging"] for name in loaded]
    loggers = [logging.getLogger(name) for name in loaded]
    levels, bars = [logger.level for logger in loggers], [module._tqdm_active for module in modules]
    with without_warnings:
        for logger, module in zip(loggers, modules, strict=True):
            logger.setLevel(logging.ERROR)
            module._tqdm_active = False  # transformers' public switch would also change huggingface_hub's bars
        try:
            yield
        finally:
            for logger, module, level, bar in zip(loggers, modules, levels, bars, strict=True):
                logger.setLevel(level)
                module._tqdm_active = bar


_QUIET = Shared(_silenced)

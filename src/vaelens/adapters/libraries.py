"""diffusers and transformers, imported so that they work beside what else is installed, and quiet while we use them.

Both take seconds to import: ask for them when something is about to be generated, not before.
"""

import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any


@cache
def diffusers() -> Any:
    """The module, with transformers loaded before it."""
    hide_broken_torchvision()
    with warnings.catch_warnings():  # what they deprecate among themselves isn't the user's to mend
        warnings.simplefilter("ignore")
        with quiet():
            import_module("transformers.models.clip")
            return import_module("diffusers")


@contextmanager
def quiet() -> Generator[None]:
    """In this context neither library writes lines, bars or warnings; how they were set before is put back."""
    found = [import_module(f"{name}.utils.logging") for name in ("transformers", "diffusers")]
    before = [(logging, logging.get_verbosity(), logging.is_progress_bar_enabled()) for logging in found]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logging in found:
            logging.set_verbosity_error()
            logging.disable_progress_bar()
        try:
            yield
        finally:
            for logging, verbosity, bars in before:
                logging.set_verbosity(verbosity)
                if bars:
                    logging.enable_progress_bar()


def hide_broken_torchvision() -> None:
    """Let transformers go on without torchvision where it is installed and can't be imported.

    One that was built for another torch is common; transformers imports it wherever it finds it, for work that
    isn't asked of it here, and all of diffusers would fall with it.
    """
    if "torchvision" in sys.modules or find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
    except Exception:  # noqa: BLE001  (an ImportError, or a RuntimeError on operators that aren't there)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision"] = None  # type: ignore[assignment]  (how Python spells "there is none")

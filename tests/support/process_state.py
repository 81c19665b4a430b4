"""What a test or a library call must leave as it was: the state that belongs to the whole process."""

import logging
import os
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants
from huggingface_hub.utils import are_progress_bars_disabled
from PIL import Image

from vaelens.download.client import SETTINGS

ABSENT = "absent"
backends: Any = torch.backends
PRECISIONS = {
    "cuda.matmul": backends.cuda.matmul,
    "cudnn.conv": backends.cudnn.conv,
    "mkldnn.matmul": backends.mkldnn.matmul,
    "mkldnn.conv": backends.mkldnn.conv,
}


def random_state() -> dict[str, object]:
    """The global generators of Python, NumPy and torch, hashed."""
    return {
        "random state: python": hash(random.getstate()),
        "random state: numpy": hash(str(np.random.get_state(legacy=False))),
        "random state: torch": hash(torch.get_rng_state().numpy().tobytes()),
    }


def process_state() -> dict[str, object]:
    """Everything but the random state, by a name for messages. Modules: whether they are there, or set to None."""
    state: dict[str, object] = {
        "warning filters": list(warnings.filters),
        "sys.path": list(sys.path),
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "open files": _open_files(),
        "working directory": Path.cwd(),
        "umask": _umask(),
        "torch: default dtype": torch.get_default_dtype(),
        "torch: default device": torch.get_default_device(),
        "torch: threads": torch.get_num_threads(),
        "torch: gradients": torch.is_grad_enabled(),
        "torch: inference mode": torch.is_inference_mode_enabled(),
        "torch: deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch: cudnn": (backends.cudnn.benchmark, backends.cudnn.deterministic),
        "pillow: largest image": Image.MAX_IMAGE_PIXELS,
        "huggingface_hub: progress bars disabled": are_progress_bars_disabled(),
    }
    state |= {f"signal {number.name}": signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    state |= {f"environment: {name}": value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    state |= {f"torch: precision of {name}": setting.fp32_precision for name, setting in PRECISIONS.items()}
    state |= {f"huggingface_hub: {name}": getattr(constants, name) for name in SETTINGS}
    state |= {f"module {name}": "None" if module is None else "there" for name, module in list(sys.modules.items())}
    named = {n: one for n, one in logging.root.manager.loggerDict.items() if isinstance(one, logging.Logger)}
    for name, logger in {"root": logging.getLogger(), **named}.items():
        state |= {f"log level of {name}": logger.level, f"propagation of {name}": logger.propagate}
    for name in ("transformers", "diffusers"):
        if library := sys.modules.get(f"{name}.utils.logging"):
            state[f"{name}: progress bars"] = library.is_progress_bar_enabled()
    return state


def changes(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """What differs, a line each. A module imported for the first time, and what it sets up, isn't a change."""
    return [
        f"{name}: {_difference(old, new)}"
        for name in before | after
        if (old := before.get(name, ABSENT)) != (new := after.get(name, ABSENT))
        and not (old == ABSENT and new != "None" and not name.startswith("environment: "))
    ]


def _difference(old: object, new: object) -> str:
    if isinstance(old, list) and isinstance(new, list):
        gone, more = [one for one in old if one not in new], [one for one in new if one not in old]
        return f"without {gone}, with {more}" if gone or more else "in another order"
    return f"{old} -> {new}"


def _open_files() -> object:
    if os.name != "posix":
        return None
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)


def _umask() -> str:
    status = Path("/proc/self/status")
    if status.exists():
        return next(line for line in status.read_text().splitlines() if line.startswith("Umask"))
    umask = os.umask(0)
    os.umask(umask)
    return oct(umask)

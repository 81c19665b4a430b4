"""One peer in a process of its own: reads commands as JSON lines, answers each by one.

Memory is the growth of the resident size from after loading to its peak in a call.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[1]
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS.parent / "tests")]

with contextlib.suppress(RuntimeError, ImportError):
    # A torchvision without operators (the test environment's) would stop diffusers.
    import support.torchvision_operators  # noqa: F401

import torch  # noqa: E402
from realistic import inputs  # noqa: E402
from resident_memory import peak, settled  # noqa: E402
from torch import Tensor  # noqa: E402

from peers.attention_timer import attention_timer  # noqa: E402
from peers.job import Job  # noqa: E402
from peers.table import PEERS, REFERENCES  # noqa: E402


def main() -> None:
    """Loads, says that it is ready, and works until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # converters print to stdout

    def answer(values: dict[str, Any]) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    job = Job(**json.loads(sys.argv[1]))
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    try:
        with torch.inference_mode(job.peer not in {"vaelens", "vaelens bfloat16"}), torch.no_grad():
            started = time.perf_counter()
            loaded = (PEERS | REFERENCES)[job.peer].load(job)
            answer({"load_seconds": time.perf_counter() - started, "notes": loaded.notes})
            x = inputs(job.folder, job.task, (job.height, job.width), job.batch)
            serve(loaded.call, x, answer)
    except Exception as error:  # noqa: BLE001
        answer({"failed": f"{type(error).__name__}: {str(error)[:300]}"})


def serve(call: Callable[[Tensor], Tensor], x: Tensor, answer: Callable[[dict[str, Any]], None]) -> None:
    """The commands: call, and of the last call's output save and compare."""
    output: Tensor | None = None
    for line in sys.stdin:
        command = json.loads(line)
        match command["do"]:
            case "call":
                output = None
                before = settled()
                started = time.perf_counter()
                output = call(x)
                seconds = time.perf_counter() - started
                answer({"seconds": seconds, "memory": None if before is None else peak() - before})
            case "attention":
                started = time.perf_counter()
                with attention_timer() as attention:
                    output = call(x)
                answer({"seconds": time.perf_counter() - started, "attention": sum(attention)})
            case "save":
                torch.save(output, command["path"])
                answer({})
            case "compare":
                assert output is not None
                answer(differences(output, torch.load(command["path"], weights_only=True, mmap=True)))


def differences(output: Tensor, reference: Tensor) -> dict[str, float]:
    """Relative L2 error; of pixels also the largest difference on [0,1], and of 8-bit values, and how many differ."""
    a, b = output.double(), reference.double()
    found = {"relative_error": float((a - b).norm() / b.norm())}
    if output.shape[1] == 3:
        x, y = ((image / 2 + 0.5).clamp(0, 1) for image in (a, b))
        steps = ((x * 255).round() - (y * 255).round()).abs()
        found["largest_difference"] = float((x - y).abs().max())
        found["largest_8bit_difference"] = float(steps.max())
        found["share_of_differing_8bit_values"] = float((steps > 0).double().mean())
    return found


if __name__ == "__main__":
    main()

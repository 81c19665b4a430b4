"""Each kernel path through the whole network: the plain network's values, and the same bits in every plan."""

import copy
import dataclasses
import hashlib

import pytest
import torch
from torch import Tensor

from support.vaes import CONFIGS, random_network, relative
from vaelens import engine
from vaelens.engine.plan import Place, Plan
from vaelens.kernels.paths import TORCH, available_paths

EXACT = [path for path in available_paths() if not path.endswith("bf16")]
PLANS: list[tuple[Place, Place, int]] = [
    ("memory", "memory", 2**30),
    ("recomputed", "parked", 5),
    ("parked", "memory", 6),
]


def placed(plan: Plan, hidden: Place, place: Place, rows: int) -> Plan:
    """With the hidden maps and the outputs of residual blocks elsewhere, but for what attention reads."""
    steps = list[object]()
    for step, following in zip(plan.steps, [*plan.steps[1:], plan.steps[-1]], strict=True):
        kept = step.place if not step.hidden or "attentions" in following.name else place
        steps.append(dataclasses.replace(step, place=kept, hidden=step.hidden and hidden, rows=rows))
    return dataclasses.replace(plan, steps=tuple(steps))


def sha256(values: Tensor) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("path", EXACT)
@pytest.mark.parametrize("name", ["sdxl", "no attention"])
def test_a_path_gives_the_plain_network_and_plans_change_no_bit(
    name: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAELENS_KERNELS", path)
    config, f = CONFIGS[name], CONFIGS[name].factor
    network = random_network(config)
    wide = copy.deepcopy(network).double()
    z, pixels = torch.randn(1, 4, 5, 3), torch.rand(1, 3, 5 * f, 3 * f)
    decoding, encoding = engine.plan_decode(network, (5, 3)), engine.plan_encode(network, (5 * f, 3 * f))
    assert decoding.path == encoding.path == path
    images = [engine.decode(network, z, plan=placed(decoding, *places)) for places in PLANS]
    moments = [engine.encode(network, pixels, plan=placed(encoding, *places)) for places in PLANS]
    assert max((image - wide.decode(z.double())).abs().max() for image in images) / 2 < 1e-4
    assert max(relative(one, wide.moments(pixels.double())) for one in moments) < 1e-4
    if path != TORCH:  # its convolutions may take other ways for other heights
        assert len({sha256(image) for image in images}) == len({sha256(one) for one in moments}) == 1

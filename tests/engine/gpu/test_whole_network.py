"""Whole maps, as a GPU runs them, against the plain network: on the CPU, with the norms of PyTorch's operations."""

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from support.vaes import CONFIGS, random_network, relative
from vaelens.engine.architecture import decoder_steps, encoder_steps
from vaelens.engine.gpu import whole_network
from vaelens.engine.gpu.norms import has_triton
from vaelens.engine.gpu.ways import Way
from vaelens.engine.gpu.whole_maps import WORKSPACE, whole_bytes
from vaelens.engine.plan import Direction
from vaelens.networks.autoencoder_kl import AutoencoderKL

PLAIN_LAUNCHES = Way()
TOLERANCE = 1e-4


def run(network: AutoencoderKL, direction: Direction, image: Tensor, **options: Any) -> Tensor:
    found = whole_network.run(network, direction, image, PLAIN_LAUNCHES, **options)
    assert found is not None
    return found


@pytest.mark.parametrize(("size", "batch"), [((1, 1), 1), ((5, 3), 3), ((8, 13), 1)])
@pytest.mark.parametrize("name", CONFIGS)
def test_decode_and_encode_are_those_of_the_plain_network(name: str, size: tuple[int, int], batch: int) -> None:
    config = CONFIGS[name]
    network, (h, w), f = random_network(config), size, config.factor
    z, pixels = torch.randn(batch, config.latent_channels, h, w), torch.rand(batch, 3, h * f, w * f) * 2 - 1
    wide = copy.deepcopy(network).double()
    decoded, encoded = run(network, "decode", z), run(network, "encode", pixels)
    assert (decoded.dtype, decoded.shape, decoded.is_contiguous()) == (torch.float32, (batch, 3, h * f, w * f), True)
    assert relative(decoded, wide.decode(z.double())) < TOLERANCE
    assert relative(encoded, wide.moments(pixels.double())) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_as_the_plain_network(dtype: torch.dtype) -> None:
    network = random_network(CONFIGS["sd1"])
    z, pixels = torch.randn(1, 4, 8, 8), torch.rand(1, 3, 64, 64) * 2 - 1
    wide, half = copy.deepcopy(network).double(), copy.deepcopy(network).to(dtype)
    for direction, given, name in (("decode", z, "decode"), ("encode", pixels, "moments")):
        image = given.to(dtype)
        wanted = getattr(wide, name)(image.double())
        plain = relative(getattr(half, name)(image).double(), wanted)
        assert relative(run(half, direction, image).double(), wanted) < 1.1 * plain


def test_queries_are_taken_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    network, z = random_network(CONFIGS["sd1"]), torch.randn(2, 4, 6, 5)
    whole = run(network, "decode", z)
    monkeypatch.setattr("vaelens.engine.gpu.whole_maps.SCORES", 210)  # 7 of 30 queries
    assert relative(run(network, "decode", z), whole) < 1e-5


def test_changed_weights_are_used() -> None:
    network, z = random_network(CONFIGS["sd1"]), torch.randn(1, 4, 3, 3)
    run(network, "decode", z)
    for parameter in network.parameters():
        parameter.mul_(0.9)
    assert relative(run(network, "decode", z), network.decode(z)) < TOLERANCE


def test_nothing_is_kept_of_a_network_that_is_gone() -> None:
    network = random_network(CONFIGS["no attention"])
    run(network, "decode", torch.randn(1, 4, 3, 3))
    assert network in whole_network._kept
    before = len(whole_network._kept)
    del network
    assert len(whole_network._kept) == before - 1


def test_a_batch_that_does_not_fit_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    network, z = random_network(CONFIGS["sd1"]), torch.randn(5, 4, 4, 4)
    whole, steps, counts = run(network, "decode", z), decoder_steps(network), list[int]()
    own = whole_network.WholeMaps.run

    def counted(self: Any, image: Tensor, normalise: Any) -> Tensor:
        counts.append(len(image))
        return own(self, image, normalise)

    monkeypatch.setattr(whole_network.WholeMaps, "run", counted)
    enough = whole_bytes(steps, (4, 4), 2, torch.float32, fp32_norms=True)
    assert relative(run(network, "decode", z, max_memory=enough), whole) < 1e-5
    assert counts == [2, 2, 1]
    one = whole_bytes(steps, (4, 4), 1, torch.float32, fp32_norms=True)
    assert whole_network.run(network, "decode", z, PLAIN_LAUNCHES, max_memory=one - 1) is None


def test_bytes_grow_with_the_maps() -> None:
    """There are three maps of the decoder's last level at once, or of the encoder's first."""
    network = random_network(CONFIGS["no attention"])
    for steps, small, large in (
        (decoder_steps(network), (64, 64), (128, 128)),
        (encoder_steps(network), (128, 128), (256, 256)),
    ):
        least, most = (
            whole_bytes(steps, size, 1, torch.bfloat16, fp32_norms=False) - WORKSPACE for size in (small, large)
        )
        assert least > 3 * 128 * 128 * 8 * 2
        assert 3.5 < most / least < 4
    assert whole_bytes(steps, (128, 128), 1, torch.bfloat16, fp32_norms=True) - WORKSPACE > 2 * least


def test_triton_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it weren't installed
    monkeypatch.delitem(sys.modules, "vaelens.kernels.triton_group_norm", raising=False)
    assert not has_triton()
    network, z = random_network(CONFIGS["no attention"]), torch.randn(1, 4, 3, 3)
    assert relative(run(network, "decode", z), network.decode(z)) < TOLERANCE
    with pytest.raises(ImportError):
        whole_network.run(network, "decode", z, Way(triton=True))


def test_memory_that_runs_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    network, said = random_network(CONFIGS["sd1"]), list[str]()

    def fails(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(whole_network.WholeMaps, "run", fails)
    assert whole_network.run(network, "decode", torch.randn(1, 4, 4, 4), PLAIN_LAUNCHES, notify=said.append) is None
    assert said == ["Memory ran out while decoding 4x4 as a whole. It begins again within a plan."]
    assert network not in whole_network._kept

"""Packed weights: used again while the parameters are the same, and no longer than the network lives."""

import dataclasses
import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from support.vaes import CONFIGS, random_network
from vaelens import engine
from vaelens.engine import packed_weights, planner
from vaelens.engine.architecture import Convolve, decoder_steps
from vaelens.engine.packed_weights import prepare
from vaelens.kernels.convolution import Convolution
from vaelens.kernels.paths import available_paths
from vaelens.kernels.torch_convolution import TorchKernel
from vaelens.networks.autoencoder_kl import AutoencoderKL


def upsample(network: AutoencoderKL, keep: bool) -> Convolution:
    """The convolution of the first upsampling, whose weights are made from the network's."""
    step = next(step for step in decoder_steps(network) if step.name.endswith("upsample"))
    assert isinstance(step, Convolve)
    layer = step.layer
    kernel = TorchKernel(layer.geometry, layer.in_channels, layer.out_channels, torch.float32, "cpu")
    return prepare(layer, kernel, keep)


def replaced(network: AutoencoderKL) -> None:
    layer = network.decoder.up_blocks[0].upsamplers[0].conv
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone())


def weight(network: AutoencoderKL) -> torch.Tensor:
    return network.decoder.up_blocks[0].upsamplers[0].conv.weight


def move(network: AutoencoderKL, axis: int) -> None:
    """The same values in other places, which torch doesn't count."""
    values = weight(network).data
    values.copy_(values.roll(1, axis))


CHANGES: dict[str, Callable[[AutoencoderKL], object]] = {
    "in place": lambda network: weight(network).mul_(2),
    "in place, uncounted": lambda network: weight(network).data.mul_(2),
    "output channels moved": lambda network: move(network, 0),
    "input channels moved": lambda network: move(network, 1),
    "rows moved": lambda network: move(network, 2),
    "signs": lambda network: weight(network).data.neg_(),
    "the bias moved": lambda network: (
        network.decoder.up_blocks[0]
        .upsamplers[0]
        .conv.bias.data.copy_(network.decoder.up_blocks[0].upsamplers[0].conv.bias.flip(0))
    ),
    "the bias": lambda network: network.decoder.up_blocks[0].upsamplers[0].conv.bias.zero_(),
    "another tensor": replaced,
    "another dtype": lambda network: network.bfloat16(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_weights_are_packed_again_when_a_parameter_changes(name: str) -> None:
    network = random_network(CONFIGS["sd1"])
    first = upsample(network, keep=True)
    assert upsample(network, keep=True) is first
    assert upsample(network, keep=False) is first  # what is there is used
    CHANGES[name](network)
    assert upsample(network, keep=True) is not first


def test_weights_in_another_layout_are_read_where_they_lie() -> None:
    """`model.to(memory_format=torch.channels_last)` is usual: a copy of all weights for each call would be slow."""
    given = torch.arange(2.0 * 3 * 4 * 5).view(2, 3, 4, 5)
    for values in (given, given.to(memory_format=torch.channels_last), given.transpose(0, 3)):
        assert packed_weights._as_stored(values).data_ptr() == values.data_ptr()
    assert packed_weights._as_stored(given[:, 1:]).tolist() == given[:, 1:].flatten().tolist()


UNCOUNTED: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "one value": lambda w, b: w[3, 2].view(-1)[4].mul_(1.01),
    "signs": lambda w, b: w.neg_(),
    "output channels moved": lambda w, b: w.copy_(w.roll(1, 0)),
    "one value of the bias": lambda w, b: b[2].mul_(1.01),
    "the bias moved": lambda w, b: b.copy_(b.flip(0)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", UNCOUNTED)
def test_changes_on_a_gpu_are_found_by_its_own_sums(name: str, dtype: torch.dtype) -> None:
    """Here of tensors on the CPU."""
    parameters = [torch.randn(4, 3, 3, 3).to(dtype), torch.randn(4).to(dtype)]
    before = packed_weights._content_on_device(parameters)
    assert packed_weights._content_on_device([one.clone() for one in parameters]) == before
    UNCOUNTED[name](*parameters)
    assert packed_weights._content_on_device(parameters) != before


def test_nothing_stays_where_it_is_not_kept() -> None:
    network = random_network(CONFIGS["sd1"])
    assert upsample(network, keep=False) is not upsample(network, keep=False)


def made(network: AutoencoderKL, budget: int | None = None) -> None:
    engine.decode(network, torch.zeros(1, 4, 2, 2), max_memory=budget)


def held(network: AutoencoderKL) -> int:
    """Bytes that packed weights of a network take."""
    owners = set(network.modules())
    return sum(
        one.bytes for owner, entries in packed_weights._kept.items() if owner in owners for one in entries.values()
    )


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a path that packs all weights; and what earlier tests left is gone."""
    if "portable" not in available_paths():
        pytest.skip("this machine has no native kernels")
    monkeypatch.setenv("VAELENS_KERNELS", "portable")
    monkeypatch.setattr(packed_weights, "_kept", weakref.WeakKeyDictionary())


@pytest.mark.usefixtures("packing")
def test_weights_of_earlier_calls_go_where_a_budget_has_no_room_beside_them() -> None:
    first, second = random_network(CONFIGS["sd1"]), random_network(CONFIGS["sd1"])
    made(first)
    engine.encode(second, torch.zeros(1, 3, 16, 16))
    of_first, of_encoder = held(first), held(second)
    ample = engine.plan_decode(second, (2, 2))
    assert ample.keep_weights
    made(second, ample.peak_bytes + of_first + of_encoder)  # they all fit
    of_both = held(second)
    assert held(first) == of_first
    assert of_both > of_encoder
    made(second, ample.peak_bytes + of_first + of_encoder - 1)
    assert (held(first), held(second)) == (0, of_both - of_encoder)
    made(second, ample.smallest)  # a plan that keeps none
    assert held(second) == 0
    made(first)
    engine.decode(second, torch.zeros(1, 4, 2, 2), plan=dataclasses.replace(ample, max_memory=1))
    assert held(first) == 0


@pytest.mark.usefixtures("packing")
def test_weights_of_another_path_are_not_kept_beside_those_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(CONFIGS["sd1"])
    made(network)
    before = held(network)
    monkeypatch.setenv("VAELENS_KERNELS", "torch")
    made(network)
    assert 0 < held(network) < before  # PyTorch's kernels pack those of upsampling alone
    monkeypatch.setenv("VAELENS_KERNELS", "portable")
    made(network)
    monkeypatch.setenv("VAELENS_KERNELS", "torch")
    made(network, engine.plan_decode(network, (2, 2)).peak_bytes)
    assert held(network) == sum(
        layer.kernel(torch.float32, torch.device("cpu")).packed_bytes
        for step in decoder_steps(network)
        for layer in step.layers
    )


@pytest.mark.usefixtures("packing")
def test_without_a_budget_what_is_kept_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run would be cramped by weights that it may drop."""
    first, second = random_network(CONFIGS["sd1"]), random_network(CONFIGS["sd1"])
    ample = engine.plan_decode(second, (2, 2))
    made(first)
    monkeypatch.setattr(planner, "free_memory", lambda _: (ample.peak_bytes - held(first)) / 0.9 + 10)
    assert engine.plan_decode(second, (2, 2)) == ample
    made(second)
    assert held(first) == 0


def test_packed_weights_go_with_their_network() -> None:
    network = random_network(CONFIGS["sd1"])
    packed = weakref.ref(upsample(network, keep=True))
    assert packed() is not None
    del network
    gc.collect()
    assert packed() is None


def test_several_threads_decode_with_one_network() -> None:
    network, z = random_network(CONFIGS["sd1"]), torch.randn(1, 4, 5, 5)
    with ThreadPoolExecutor(3) as pool:
        images = list(pool.map(lambda _: engine.decode(network, z), range(6)))
    assert all(torch.equal(image, images[0]) for image in images)

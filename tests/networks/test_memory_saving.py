"""The networks in less memory: the gradients of the plain ones in float64, and what autograd keeps."""

import contextlib
import copy

import pytest
import torch
from torch import Tensor, nn

from support.random_trunks import random_vgg16
from vaelens.kernels.paths import VARIABLE, available_paths
from vaelens.networks import memory_saving as module
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from vaelens.networks.memory_saving import memory_saving
from vaelens.networks.vgg import VGG16
from vaelens.resources import seeded

SD1 = AutoencoderKLConfig(block_out_channels=(32, 64, 64, 64), layers_per_block=1, norm_num_groups=8)
ODD = AutoencoderKLConfig(
    latent_channels=16, block_out_channels=(24, 48), norm_num_groups=6, use_quant_conv=False, use_post_quant_conv=False,
    mid_block_add_attention=False,
)  # fmt: skip
PATHS = [path for path in available_paths() if path in ("amx", "avx512", "torch")]


def network(config: AutoencoderKLConfig) -> AutoencoderKL:
    with seeded(0):
        return AutoencoderKL(config)


def run(net: AutoencoderKL, part: str, x: Tensor, *, saving: bool) -> Tensor:
    with memory_saving() if saving else contextlib.nullcontext():
        return net.decode(x) if part == "decoder" else net.moments(x)


def gradients(net: AutoencoderKL, part: str, x: Tensor, dtype: torch.dtype, *, saving: bool) -> dict[str, Tensor]:
    """By parameter, and of the input; also the output."""
    net = copy.deepcopy(net).to(dtype)
    x = x.to(dtype, copy=True).requires_grad_()
    out = run(net, part, x, saving=saving)
    out.backward(torch.linspace(-1, 1, out.numel()).sin().view(out.shape).to(dtype))
    found = {name: p.grad.double() for name, p in net.named_parameters() if p.grad is not None}
    # A bias of keys changes no attention: its gradient is 0 but for rounding.
    return {name: g for name, g in found.items() if "to_k.bias" not in name} | {"input": x.grad, "out": out.detach()}


def kept_bytes(net: AutoencoderKL, part: str, x: Tensor, *, saving: bool) -> int:
    """Of the maps that autograd keeps for the backward pass."""
    own = {p.data_ptr() for p in net.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = run(net, part, x, saving=saving)
    found = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)
    del out
    return found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("part", ["decoder", "encoder"])
@pytest.mark.parametrize("config", [SD1, ODD], ids=["sd1", "odd"])
def test_gradients_are_the_plain_network_s(
    config: AutoencoderKLConfig, part: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, path)
    net = network(config)
    for b, h, w in ((1, 3, 5), (3, 1, 2)):
        c, f = (config.latent_channels, 1) if part == "decoder" else (3, config.factor)
        x = torch.randn(b, c, h * f, w * f, generator=torch.Generator().manual_seed(1))
        expected = gradients(net, part, x, torch.float64, saving=False)
        found = gradients(net, part, x, torch.float32, saving=True)
        assert set(found) == set(expected)
        for name, right in expected.items():
            assert (found[name] - right).norm() < (1e-4 if path == "amx" else 1e-5) * right.norm(), name


def test_in_float64_gradients_are_the_plain_network_s_to_the_last_digits() -> None:
    net = network(SD1)
    x = torch.randn(2, 4, 3, 2, generator=torch.Generator().manual_seed(1))
    expected = gradients(net, "decoder", x, torch.float64, saving=False)
    for name, found in gradients(net, "decoder", x, torch.float64, saving=True).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_autograd_keeps_less_than_half_of_the_maps(part: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, path)
    net = network(SD1)
    x = torch.randn(1, 4, 8, 8) if part == "decoder" else torch.randn(1, 3, 64, 64)
    saving, plain = (kept_bytes(net, part, x, saving=kind) for kind in (True, False))
    assert saving < {"decoder": 0.37, "encoder": 0.45}[part] * plain


def test_a_module_that_someone_listens_to_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks, a forward of its own, another class: then the modules run as they are, with the same result."""
    monkeypatch.setenv(VARIABLE, "torch")
    net, heard = network(SD1), list[str]()
    z = torch.randn(1, 4, 2, 3)
    expected = run(net, "decoder", z, saving=False)
    first, second = net.decoder.up_blocks[0].resnets[0], net.decoder.up_blocks[1].resnets[0]
    first.norm1.register_forward_hook(lambda *_: heard.append("norm"))
    first.conv2.register_forward_pre_hook(lambda *_: heard.append("conv"))
    second.conv1.forward = lambda x: heard.append("forward") or nn.Conv2d.forward(second.conv1, x)
    torch.testing.assert_close(run(net, "decoder", z, saving=True), expected, rtol=1e-5, atol=1e-5)
    assert heard == ["norm", "conv", "forward"]


def test_it_ends_with_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()
    real = module.trained_convolution
    monkeypatch.setattr(module, "trained_convolution", lambda *a, **k: calls.append(1) or real(*a, **k))
    net, z = network(ODD), torch.randn(1, 16, 2, 2)
    with memory_saving():
        net.decode(z)
    inside = len(calls)
    net.decode(z)
    assert inside == len(calls) > 10


def test_vgg_s_gradient_is_the_plain_one_s() -> None:
    """Of a frozen network, with respect to the image.

    With smooth activations and pools: where a value is as near to zero, or to another, as the rounding, a ReLU or a
    maximum takes the other side, and the gradient jumps by up to a hundredth.
    """
    with torch.device("meta"):
        vgg = VGG16()
    vgg.load_state_dict(random_vgg16(), assign=True)
    vgg.requires_grad_(False)
    for name, layer in list(vgg.features.named_children()):
        if not isinstance(layer, nn.Conv2d):
            setattr(vgg.features, name, nn.AvgPool2d(2) if isinstance(layer, nn.MaxPool2d) else nn.SiLU())
    image = torch.randn(2, 3, 32, 35)

    def gradient(net: VGG16, dtype: torch.dtype) -> Tensor:
        x = image.to(dtype).requires_grad_()
        return torch.autograd.grad(sum(tap.square().mean() for tap in net(x)), x)[0].double()

    kept = list[torch.Size]()
    with memory_saving(), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        found = gradient(vgg, torch.float32)
    maps = [shape for shape in kept if len(shape) == 4 and shape[0] == 2]
    assert len(maps) == 10, maps  # what each block is computed from again, and the squares' input
    expected = gradient(vgg.double(), torch.float64)
    assert (found - expected).norm() < 1e-4 * expected.norm()

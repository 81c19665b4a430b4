"""Balanced initial weights: all of the latent's channels carry signal from the start."""

import torch

from support.training import short_recipe
from vaelens.finetuning.initialization import initialize
from vaelens.networks.autoencoder_kl import Attention, AutoencoderKL, ResnetBlock
from vaelens.runtime import Runtime


def initial(init: str, seed: int = 0) -> AutoencoderKL:
    recipe = short_recipe(model__init=init)
    return initialize(None, recipe, seed, None, Runtime(offline=True)).network


def conditioning(network: AutoencoderKL) -> float:
    """Of the chain around the latent: how much more of its strongest direction gets through than of its weakest."""
    mean = network.quant_conv.weight[:4, :, 0, 0]
    chain = network.post_quant_conv.weight[:, :, 0, 0] @ mean @ network.encoder.conv_out.weight.sum(dim=(2, 3))
    widths = torch.linalg.svdvals(chain.detach())
    return float(widths[0] / widths[-1])


def test_residual_branches_start_at_zero() -> None:
    network = initial("balanced")
    residual = [m for m in network.modules() if isinstance(m, ResnetBlock | Attention)]
    assert len(residual) > 10
    for module in residual:
        last = module.conv2 if isinstance(module, ResnetBlock) else module.to_out[0]
        assert not any(p.any() for p in last.parameters())
    block = next(m for m in residual if isinstance(m, ResnetBlock) and m.conv_shortcut is None)
    x = torch.randn(1, block.conv1.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x)


def test_layers_around_the_latent_keep_its_channels_apart() -> None:
    network = initial("balanced")
    for conv in (network.quant_conv, network.post_quant_conv):
        assert torch.equal(conv.weight[:, :, 0, 0], torch.eye(len(conv.weight)))
        assert not conv.bias.any()  # type: ignore[union-attr]
    rows = network.encoder.conv_out.weight.detach().flatten(1).double()
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64), atol=1e-6)


def test_no_direction_of_the_latent_starts_nearly_blocked() -> None:
    balanced, default = ([conditioning(initial(init, seed)) for seed in range(6)] for init in ("balanced", "default"))
    measured = f"{max(balanced):.1f}, with torch's default weights from {min(default):.1f} to {max(default):.1f}"
    print(f"strongest over weakest direction around the latent: at most {measured}")
    assert max(balanced) < 2
    assert max(default) > 50

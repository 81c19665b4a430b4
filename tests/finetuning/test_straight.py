"""Training from scratch begins with colours that go straight through all of the latent's channels."""

import torch
from vaelens.finetuning.initialization import start_from

from support.training import recipe
from vaelens.evaluation.equipment import Access
from vaelens.networks.autoencoder_kl import Attention, AutoencoderKL, ResnetBlock


def begun(begin: str, seed: int = 0) -> AutoencoderKL:
    wanted = recipe(model__init=begin)
    return start_from(None, wanted, seed, None, Access(torch.device("cpu"), True, print)).network


def conditioning(network: AutoencoderKL) -> float:
    """Of the chain around the latent: how much more of its strongest direction gets through than of its weakest."""
    assert network.quant_conv is not None
    assert network.post_quant_conv is not None
    mean = network.quant_conv.weight[:4, :, 0, 0]
    chain = network.post_quant_conv.weight[:, :, 0, 0] @ mean @ network.encoder.conv_out.weight.sum(dim=(2, 3))
    widths = torch.linalg.svdvals(chain.detach())
    return float(widths[0] / widths[-1])


def test_residual_branches_begin_at_zero() -> None:
    network = begun("balanced")
    residual = [m for m in network.modules() if isinstance(m, ResnetBlock | Attention)]
    assert len(residual) > 10
    for module in residual:
        last = module.conv2 if isinstance(module, ResnetBlock) else module.to_out[0]
        assert not any(p.any() for p in last.parameters())
    block = next(m for m in residual if isinstance(m, ResnetBlock) and m.conv_shortcut is None)
    x = torch.randn(1, block.conv1.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x)


def test_what_stands_around_the_latent_keeps_its_channels_apart() -> None:
    network = begun("balanced")
    for conv in (network.quant_conv, network.post_quant_conv):
        assert conv is not None
        assert torch.equal(conv.weight[:, :, 0, 0], torch.eye(len(conv.weight)))
        assert not conv.bias.any()  # type: ignore[union-attr]
    rows = network.encoder.conv_out.weight.detach().flatten(1).double()
    assert torch.allclose(rows @ rows.T, torch.eye(len(rows), dtype=torch.float64), atol=1e-6)


def test_no_direction_of_the_latent_begins_nearly_closed() -> None:
    straight, own = ([conditioning(begun(begin, seed)) for seed in range(6)] for begin in ("balanced", "default"))
    told = f"{max(straight):.1f}, with torch's own weights from {min(own):.1f} to {max(own):.1f}"
    print(f"strongest over weakest direction around the latent: at most {told}")
    assert max(straight) < 2
    assert max(own) > 50

"""kl-f8 at its full width, against float64: the path that the rule takes on this machine, and the others."""

import copy

import pytest
import torch
from torch import nn

from vaelens.engine.autoencoder import decode, encode, plan_decode
from vaelens.kernels.paths import available_paths
from vaelens.networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig

FAST = [path for path in ("amx", "avx512", "avx2", "torch") if path in available_paths()]
LARGEST = {"decode": 3e-5, "encode": 3e-5}  # relative L2; decoded pixels also differ by less than 1e-4 on [0,1]


@pytest.mark.slow
@torch.no_grad()
def test_a_full_size_vae_is_that_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = AutoencoderKL(AutoencoderKLConfig()).eval()
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):  # as different from one channel to the next as those of trained VAEs
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
    smooth = nn.functional.interpolate(torch.randn(1, 4, 2, 3), size=(16, 20), mode="bicubic")
    z = 3 * smooth + torch.randn(1, 4, 16, 20)
    network.double()
    pixels = network.decode(z.double())
    image = pixels.clamp(-1, 1).float()
    moments = network.moments(image.double())
    network.float()
    for path in FAST:
        monkeypatch.setenv("VAELENS_KERNELS", path)
        decoded = decode(network, z, max_memory=2**29)
        error = float((decoded - pixels).norm() / pixels.norm())
        assert error < LARGEST["decode"], f"{path}: {error:.1e}"
        assert float((decoded - pixels).abs().max()) / 2 < 1e-4, path
        encoded = encode(network, image, max_memory=2**29)
        error = float((encoded - moments).norm() / moments.norm())
        assert error < LARGEST["encode"], f"{path}: {error:.1e}"
    if "amx-bf16" in available_paths():
        monkeypatch.setenv("VAELENS_KERNELS", "amx")
        decoded = decode(network, z, dtype=torch.bfloat16)
        theirs = copy.deepcopy(network).bfloat16().decode(z.bfloat16()).double()
        assert (decoded - pixels).norm() < 0.5 * (theirs - pixels).norm()


@pytest.mark.slow
@torch.no_grad()
def test_a_full_size_vae_at_an_odd_size_in_the_least_memory() -> None:
    """520x776 pixels, by the path of this machine, against the plain network."""
    torch.manual_seed(0)
    network = AutoencoderKL(AutoencoderKLConfig()).eval()
    z = torch.randn(1, 4, 65, 97)
    plain = network.decode(z)
    for budget in (None, plan_decode(network, (65, 97)).smallest):
        assert float((decode(network, z, max_memory=budget) - plain).abs().max()) / 2 < 1e-4

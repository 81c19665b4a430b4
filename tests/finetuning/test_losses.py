"""The losses: against torch's own, against plain code, and common mistakes of training code."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from support import oracles
from support.random_trunks import random_heads, random_vgg16
from support.training import SIZE, short_recipe
from vaelens.errors import NetworkError
from vaelens.finetuning.losses import (
    Perceptual,
    adaptive_weight,
    box_weights,
    discriminator_loss,
    generator_loss,
    kl_loss,
    load_perceptual,
    pixel_differences,
    reconstruction_loss,
)
from vaelens.images.drawing import Box
from vaelens.metrics.lpips import LPIPSHeads, lpips
from vaelens.metrics.psim import psim
from vaelens.networks.autoencoder_kl import DiagonalGaussian
from vaelens.networks.patchgan import PatchGAN, min_size
from vaelens.networks.vgg import VGG16
from vaelens.runtime import Runtime


def random_images(side: int, seed: int, count: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, 3, side, side, generator=generator) for _ in range(2)]


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, 3, SIZE, SIZE, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2))
    return x, y


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    states = {"vgg16": random_vgg16(), "lpips-vgg": random_heads(VGG16.WIDTHS)}
    for name, state in states.items():
        torch.save(state, folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in states}


def test_pixel_losses_are_torch_s(pair: tuple[Tensor, Tensor]) -> None:
    x, y = pair
    torch.testing.assert_close(pixel_differences("l1", x, y).mean(), F.l1_loss(x, y))
    torch.testing.assert_close(pixel_differences("mse", x, y).mean(), F.mse_loss(x, y))
    # Charbonnier in its limits: |d| - e far out, d^2 / 2e near 0.
    far, near = torch.tensor([[0.5]]), torch.tensor([[1e-5]])
    assert pixel_differences("charbonnier", far, 0 * far).item() == pytest.approx(0.5 - 1e-3, rel=1e-5)
    assert pixel_differences("charbonnier", near.double(), 0 * near).item() == pytest.approx(1e-10 / 2e-3, rel=1e-3)
    with pytest.raises(ValueError, match="huber"):
        pixel_differences("huber", x, y)  # type: ignore[arg-type]


def test_the_sum_form_is_the_authors_own_formula(pair: tuple[Tensor, Tensor]) -> None:
    """|x - x'| + w LPIPS for each element (LPIPS broadcast), summed, over the batch; KL summed, over the batch."""
    x, y = pair
    loss = short_recipe(loss__reduction="sum", loss__perceptual_weight=0.7, loss__perceptual="psim").loss

    def distance(made: Tensor, expected: Tensor) -> Tensor:
        return (made - expected).square().mean(dim=(1, 2, 3))

    found, parts = reconstruction_loss(loss, x, y, distance)
    each = (x - y).abs() + 0.7 * distance((x + 1) / 2, (y + 1) / 2)[:, None, None, None]
    torch.testing.assert_close(found, each.sum() / len(x))
    torch.testing.assert_close(parts["pixel"], (x - y).abs().mean())
    posterior = DiagonalGaussian(x[:, :, :4, :4], y[:, :, :4, :4])
    mean, logvar = posterior.mean, posterior.logvar
    torch.testing.assert_close(kl_loss(loss, posterior), 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / len(x))


def test_the_mean_form_is_the_sum_form_divided_by_the_elements(pair: tuple[Tensor, Tensor]) -> None:
    x, y = pair
    sums, means = (short_recipe(loss__reduction=reduction).loss for reduction in ("sum", "mean"))
    total, mean = (reconstruction_loss(loss, x, y, None)[0] for loss in (sums, means))
    torch.testing.assert_close(total, mean * x[0].numel())
    posterior = DiagonalGaussian(x[:, :, :4, :4], y[:, :, :4, :4])
    torch.testing.assert_close(kl_loss(sums, posterior), kl_loss(means, posterior) * posterior.mean[0].numel())


@pytest.mark.parametrize("name", ["lpips-vgg", "psim", "psim-small"])
def test_a_perceptual_loss_has_a_gradient(name: str, files: dict[str, Path]) -> None:
    needed = {"lpips-vgg": ("vgg16", "lpips-vgg"), "psim": ("vgg16",)}.get(name, ())
    distance, record = load_perceptual(name, {key: files[key] for key in needed})
    assert set(record) == ({*needed} if needed else {"psim-small"})
    x, y = random_images(SIZE, seed=2)
    x.requires_grad_()
    value = distance(x, y)
    assert value.shape == (2,)
    value.sum().backward()
    assert all(one.norm() > 1e-3 for one in x.grad)
    assert float(distance(y, y).abs().max()) < 1e-6


def test_the_lpips_loss_is_lpips(files: dict[str, Path]) -> None:
    distance, _ = load_perceptual("lpips-vgg", files)
    x, y = random_images(64, seed=3)
    oracle = oracles.lpips_model("vgg", random_vgg16(), random_heads(VGG16.WIDTHS))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    distance(a, y).sum().backward()
    oracle(2 * b - 1, 2 * y - 1).sum().backward()
    assert float((a.grad - b.grad).norm() / b.grad.norm()) < 1e-4


def test_a_perceptual_loss_stays_in_eval_mode() -> None:
    trunk = torch.nn.Sequential(torch.nn.Dropout(0.5))
    distance = Perceptual(trunk, lambda x, y: (x[0] - y[0]).square().mean(dim=(1, 2, 3)), shift=False)
    distance.trunk.forward = lambda image: [torch.nn.Dropout.forward(trunk[0], image)]  # type: ignore[method-assign]
    holder = torch.nn.ModuleList([distance]).train()
    assert holder.training
    assert not any(module.training for module in distance.modules())
    image = torch.rand(1, 3, 8, 8)
    assert float(distance(image, image)) == 0


def test_sums_are_in_float32_where_networks_run_in_bfloat16(files: dict[str, Path]) -> None:
    distance, _ = load_perceptual("lpips-vgg", files)
    assert isinstance(distance, Perceptual)
    x, y = random_images(32, seed=5, count=1)
    seen: list[list[Tensor]] = []
    between = distance._between
    distance._between = lambda a, b: seen.extend([a, b]) or between(a, b)  # type: ignore[func-returns-value]
    with torch.autocast("cpu", torch.bfloat16):
        value = distance(x, y)
    assert {tap.dtype for taps in seen for tap in taps} == {torch.float32}
    torch.testing.assert_close(value, between(*seen), rtol=1e-6, atol=0)
    assert float((value - distance(x, y)).abs()) > 0, "bfloat16 was used"


def test_features_of_nothing_give_no_nan(files: dict[str, Path]) -> None:
    """Flat images make whole positions of deep taps 0, where a square root's slope is infinite."""
    heads = LPIPSHeads([4])
    for value in (0.0, 1e-30, 1.0):
        x = torch.full((1, 4, 2, 2), value, requires_grad=True)
        y = torch.zeros(1, 4, 2, 2)
        for total in (lpips([x], [y], heads).sum(), psim([x], [y]).sum()):
            (gradient,) = torch.autograd.grad(total, x)
            assert torch.isfinite(gradient).all(), value


def test_a_missing_network_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(NetworkError, match=r"perceptual loss lpips-vgg needs it.*psim-small"):
        load_perceptual("lpips-vgg", runtime=Runtime(offline=True))


def test_hinge_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.5])
    assert discriminator_loss(real, fake).item() == pytest.approx(0.5 * (0.5 / 2 + 1.5 / 2))
    assert discriminator_loss(torch.zeros(3), torch.zeros(3)).item() == 1
    assert generator_loss(fake).item() == pytest.approx(0.75)


def test_the_adaptive_weight_s_bounds() -> None:
    one, nothing = torch.ones(4), torch.zeros(4)
    assert adaptive_weight(one, one).item() == pytest.approx(2 / (2 + 1e-4))
    assert adaptive_weight(one, nothing).item() == 1e4
    assert adaptive_weight(one, nothing, elements=100).item() == 100
    assert adaptive_weight(nothing, one).item() == 0


def test_when_the_discriminator_is_trained_and_used() -> None:
    gan = short_recipe(gan__weight=0.5, gan__start=10, gan__warmup_steps=4, gan__layers=2).gan
    assert [gan.trains_discriminator(n) for n in (5, 6, 9, 10)] == [False, True, True, True]
    assert [gan.trains_generator(n) for n in (5, 6, 9, 10)] == [False, False, False, True]
    off = short_recipe(gan__weight=0.0, gan__start=0, gan__warmup_steps=0).gan
    assert not off.trains_discriminator(100)
    assert not off.trains_generator(100)


def test_boxes_have_weights(pair: tuple[Tensor, Tensor]) -> None:
    x, y = pair
    boxes = ((Box("eye", 2, 4, 6, 9), Box("mouth", 0, 0, 3, 3)), (Box("R", 10, 10, 40, 12, glyph=True),))
    loss = short_recipe(loss__box_weight=3.0, loss__box_labels=("eye", "glyph")).loss
    weights = box_weights(loss, boxes, SIZE)
    by_hand = torch.ones(2, 1, SIZE, SIZE)
    by_hand[0, :, 4:9, 2:6] = 3
    by_hand[1, :, 10:12, 10:SIZE] = 3
    torch.testing.assert_close(weights, by_hand)
    found, _ = reconstruction_loss(loss, x, y, None, weights.double())
    each = ((x - y).abs() * by_hand).sum(dim=(1, 2, 3)) / (3 * by_hand.sum(dim=(1, 2, 3)))
    torch.testing.assert_close(found, each.mean())
    assert box_weights(short_recipe().loss, boxes, SIZE) is None
    every = short_recipe(loss__box_weight=3.0, loss__box_labels=()).loss
    assert (box_weights(every, boxes, SIZE) == 3).sum() > (weights == 3).sum()  # type: ignore[union-attr]


def test_patchgan_is_the_known_one() -> None:
    """Parameters and reach of pix2pix's 70-pixel discriminator, for three channels."""
    discriminator = PatchGAN().eval()
    assert sum(p.numel() for p in discriminator.parameters()) == 2_765_633
    image = torch.zeros(1, 3, 256, 256, requires_grad=True)
    logits = discriminator(image)
    assert logits.shape == (1, 1, 30, 30)
    logits[0, 0, 15, 15].backward()
    seen = image.grad[0].abs().sum(dim=0).nonzero()
    assert (seen.max(dim=0).values - seen.min(dim=0).values + 1).tolist() == [70, 70]
    for layers in (1, 2, 3):
        side = min_size(layers)
        assert PatchGAN(16, layers, "none")(torch.zeros(1, 3, side, side)).shape == (1, 1, 1, 1)
        with pytest.raises(RuntimeError):
            PatchGAN(16, layers, "none")(torch.zeros(1, 3, side - 1, side - 1))


def test_norms_of_the_discriminator() -> None:
    x, _ = random_images(32, seed=4)
    for norm, alone in (("none", True), ("group", True), ("batch", False)):
        discriminator = PatchGAN(16, 2, norm)  # type: ignore[arg-type]
        same = torch.allclose(discriminator(x)[:1], discriminator(x[:1]), atol=1e-6)
        assert same == alone, norm
    with pytest.raises(ValueError, match="width 8"):
        PatchGAN(8, 2, "group")

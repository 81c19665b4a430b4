"""The losses of a recipe: reconstruction (pixel and perceptual), KL, and the adversarial ones with their weight.

The sum form is kl-f8's, as its authors wrote it (Rombach et al. 2022, https://arxiv.org/abs/2112.10752, and the code of
CompVis/latent-diffusion): |x - x'| + LPIPS for each element, summed over an image and averaged over images, plus a
weight times the KL. The mean form is the same divided by the number of elements. The adversarial losses are hinge
losses (Lim and Ye 2017, https://arxiv.org/abs/1705.02894); the adaptive weight is equation 7 of Esser, Rombach and
Ommer 2021 (https://arxiv.org/abs/2012.09841).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vaelens.errors import NetworkError
from vaelens.files import sha256_file
from vaelens.finetuning.recipe import Loss
from vaelens.images.drawing import Box
from vaelens.metrics.lpips import LPIPSHeads, lpips
from vaelens.metrics.pretrained import load_networks
from vaelens.metrics.psim import normalised, psim
from vaelens.metrics.small import load_small_perceptual, small_weights
from vaelens.networks.autoencoder_kl import DiagonalGaussian
from vaelens.runtime import DEFAULT, Runtime

Pixel = Literal["l1", "mse", "charbonnier"]
Distance = Callable[[Tensor, Tensor], Tensor]  # images [b,3,h,w] in [0,1], twice -> [b]

CHARBONNIER = 1e-3  # the loss is quadratic below and linear above (Charbonnier et al. 1994)
GLYPH = "glyph"
ADAPTIVE_EPS = 1e-4
ADAPTIVE_MAX = 1e4
PERCEPTUAL_NETWORKS = {"lpips-vgg": ("vgg16", "lpips-vgg"), "psim": ("vgg16",), "psim-small": (), "none": ()}


def pixel_differences(kind: Pixel, x: Tensor, y: Tensor) -> Tensor:
    """The pixel loss of each element, [b,3,h,w]. Raises ValueError for an unknown kind."""
    match kind:
        case "l1":
            return (x - y).abs()
        case "mse":
            return (x - y).square()
        case "charbonnier":
            return ((x - y).square() + CHARBONNIER**2).sqrt() - CHARBONNIER
    raise ValueError(f"a pixel loss is {', '.join(get_args(Pixel))}, not {kind!r}")


def reconstruction_loss(
    loss: Loss, reconstruction: Tensor, original: Tensor, perceptual: Distance | None, weights: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, a scalar, and its parts for the log: `pixel` and `perceptual`, means over the batch.

    reconstruction, original: [b,3,h,w] in [-1,1], the range for which the published weights were chosen
    weights: of each pixel in the pixel loss, [b,1,h,w]; each image's loss is then a weighted mean
    """
    differences = pixel_differences(loss.pixel, reconstruction, original)
    if weights is None:
        pixel = differences.mean(dim=(1, 2, 3))
    else:
        pixel = (differences * weights).mean(dim=(1, 2, 3)) / weights.mean(dim=(1, 2, 3))
    parts = {"pixel": pixel.mean()}
    each = loss.pixel_weight * pixel
    if perceptual is not None and loss.perceptual_weight > 0:
        distance = perceptual((reconstruction + 1) / 2, (original + 1) / 2).to(pixel.dtype)
        parts["perceptual"] = distance.mean()
        each = each + loss.perceptual_weight * distance
    elements = original[0].numel() if loss.reduction == "sum" else 1
    return each.mean() * elements, parts


def kl_loss(loss: Loss, posterior: DiagonalGaussian) -> Tensor:
    """The batch's KL, unweighted, in the recipe's reduction: summed over a latent's elements, or their mean."""
    each = posterior.kl()
    return each.mean() if loss.reduction == "sum" else each.mean() / posterior.mean[0].numel()


def box_weights(loss: Loss, boxes: Sequence[Sequence[Box]], size: int) -> Tensor | None:
    """The weight of each pixel, [b,1,size,size]: `box_weight` inside the labelled boxes, 1 outside.

    boxes: of each image, in its pixels. None where all weights are 1.
    """
    if loss.box_weight == 1:
        return None
    weights = torch.ones(len(boxes), 1, size, size)
    for image, found in zip(weights, boxes, strict=True):
        for box in found:
            if has_label(box, loss.box_labels):
                rows = slice(max(0, round(box.top)), max(0, round(box.bottom)))
                image[:, rows, max(0, round(box.left)) : max(0, round(box.right))] = loss.box_weight
    return weights


def has_label(box: Box, labels: tuple[str, ...]) -> bool:
    """Whether a recipe's `box_labels` include this box: "glyph" is any synthetic character; no labels mean all."""
    return not labels or box.label in labels or (GLYPH in labels and box.glyph)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of logits; 0 for perfect separation, 1 for logits of 0."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """Minus the mean of the logits."""
    return -fake.mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, elements: int = 1) -> Tensor:
    """|reconstruction| / (|adversarial| + 1e-4), at most 1e4; a scalar.

    Both are gradients at the decoder's last weight, the first of a loss summed over an image. For a loss that was
    divided by `elements` the upper bound is divided too, so that both reductions train alike.
    """
    numerator, denominator = (g.detach().square().sum().sqrt() for g in (reconstruction, adversarial))
    return (numerator / (denominator + ADAPTIVE_EPS)).clamp_max(ADAPTIVE_MAX / elements)


class Perceptual(nn.Module):
    """A perceptual distance of images [b,3,h,w] in [0,1], at least 16 pixels wide and high: [b]. Its network is frozen.

    `train()` leaves it in eval mode: dropout would make the loss random.
    """

    def __init__(self, trunk: nn.Module, between: Callable[[list[Tensor], list[Tensor]], Tensor], shift: bool) -> None:
        super().__init__()
        self.trunk = trunk
        self._between = between
        self._shift = shift  # whether the trunk expects `normalised` images
        self.train(False)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "Perceptual":
        return super().train(False)

    def forward(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        with torch.no_grad():
            reference = self._features(original)
        features = self._features(reconstruction)
        with torch.autocast(reconstruction.device.type, enabled=False):  # the network may run in bfloat16, sums don't
            return self._between(features, reference)

    def _features(self, image: Tensor) -> list[Tensor]:
        features = cast(list[Tensor], self.trunk(normalised(image) if self._shift else image))
        return [one.float() if one.dtype in {torch.bfloat16, torch.float16} else one for one in features]


def load_perceptual(
    name: str,
    paths: Mapping[str, Path] | None = None,
    device: torch.device | str = "cpu",
    runtime: Runtime = DEFAULT,
) -> tuple[Distance | None, dict[str, Any]]:
    """A recipe's perceptual distance, None for "none", and the sha256 and source of each network it uses.

    Raises what `metrics.pretrained.load_networks` raises; NetworkError where a network isn't available: it is never
    replaced by another.
    """
    if name == "none":
        return None, {}
    if name == "psim-small":
        small = load_small_perceptual().to(device)
        record = {name: {"sha256": sha256_file(small_weights(name)), "source": "shipped"}}
        return Perceptual(small, psim, shift=False), record
    try:
        found = load_networks(PERCEPTUAL_NETWORKS[name], paths, device, runtime=runtime)
    except NetworkError as error:
        raise NetworkError(
            f"{error} The recipe's perceptual loss {name} needs it. Give the files with --network, or choose a recipe "
            "with psim-small."
        ) from error
    record = {key: {"sha256": network.sha256, "source": network.source} for key, network in found.items()}
    trunk = found["vgg16"].module
    if name == "psim":
        return Perceptual(trunk, psim, shift=True), record
    heads = cast(LPIPSHeads, found["lpips-vgg"].module)
    return Perceptual(trunk, lambda x, y: lpips(x, y, heads), shift=True), record

"""What is asked of a reconstruction: the losses of a recipe as functions of images in [0,1] or [-1,1].

kl-f8's loss, in the form of its authors (Rombach et al. 2022, https://arxiv.org/abs/2112.10752, and the code of
CompVis/latent-diffusion): |x - x'| + LPIPS for each element, summed over an image and averaged over images, plus
a weight times KL. The mean form is the same divided by the number of elements.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from vaelens.finetuning.recipe import Loss, Recipe
from vaelens.images.drawing import Box
from vaelens.networks.autoencoder_kl import DiagonalGaussian

Pixel = Literal["l1", "mse", "charbonnier"]
Distance = Callable[[Tensor, Tensor], Tensor]  # images [b,3,h,w] in [0,1], twice -> [b]
CHARBONNIER = 1e-3  # the loss's bend: below, a difference counts by its square (Charbonnier et al. 1994)
GLYPH = "glyph"


def differences(kind: Pixel, x: Tensor, y: Tensor) -> Tensor:
    """Of each element, [b,3,h,w]; x and y are of one range. Raises ValueError for an unknown kind."""
    match kind:
        case "l1":
            return (x - y).abs()
        case "mse":
            return (x - y).square()
        case "charbonnier":
            return ((x - y).square() + CHARBONNIER**2).sqrt() - CHARBONNIER
    raise ValueError(f"a pixel loss is {', '.join(get_args(Pixel))}, not {kind!r}")


def reconstruction_loss(
    loss: Loss, made: Tensor, wanted: Tensor, perceptual: Distance | None, weights: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, a scalar, and its parts for a log: `pixel` and `perceptual`, means over the batch.

    made, wanted: [b,3,h,w] in [-1,1], the range in which the published weights were chosen
    weights: how much each pixel counts in the pixel loss, [b,1,h,w]; an image's weighted mean takes the mean's place
    """
    found = differences(loss.pixel, made, wanted)
    if weights is None:
        pixel = found.mean(dim=(1, 2, 3))
    else:
        pixel = (found * weights).mean(dim=(1, 2, 3)) / weights.mean(dim=(1, 2, 3))
    parts = {"pixel": pixel.mean()}
    each = loss.pixel_weight * pixel
    if perceptual is not None and loss.perceptual_weight > 0:
        distance = perceptual((made + 1) / 2, (wanted + 1) / 2).to(pixel.dtype)
        parts["perceptual"] = distance.mean()
        each = each + loss.perceptual_weight * distance
    return each.mean() * elements(loss, wanted), parts


def kl_loss(loss: Loss, posterior: DiagonalGaussian) -> Tensor:
    """The KL of a batch in the recipe's reduction, unweighted: summed over a latent's elements, or their mean."""
    each = posterior.kl()
    return each.mean() if loss.reduction == "sum" else each.mean() / posterior.mean[0].numel()


def elements(loss: Loss, image: Tensor) -> int:
    """What a mean over an image is multiplied by to be the recipe's reduction."""
    return image[0].numel() if loss.reduction == "sum" else 1


def converted(recipe: Recipe, latent_elements: int) -> Recipe:
    """The same recipe in the other reduction, for latents of so many elements an image.

    Its losses and gradients are the given one's divided by an image's elements (sum to mean), or multiplied; a fixed
    GAN weight and the clipping norm with them. An adaptive weight follows by itself (`adversary.adaptive_weight`).
    """
    loss, gan, optimizer = recipe.loss, recipe.gan, recipe.optimizer
    count = 3 * recipe.data.size**2
    factor, to = (1 / count, "mean") if loss.reduction == "sum" else (count, "sum")
    kl = latent_elements if to == "mean" else 1 / latent_elements
    return recipe.model_copy(
        update={
            "loss": loss.model_copy(update={"reduction": to, "kl_weight": loss.kl_weight * factor * kl}),
            "gan": gan.model_copy(update={"weight": gan.weight * (factor if gan.weighting == "fixed" else 1)}),
            "optimizer": optimizer.model_copy(update={"clip": optimizer.clip * factor}),
        }
    )


def pixel_weights(loss: Loss, boxes: Sequence[Sequence[Box]], size: int) -> Tensor | None:
    """How much each pixel counts, [b,1,size,size]: `box_weight` inside the labelled boxes, 1 outside.

    boxes: of each image, in its pixels. None where every pixel counts alike.
    """
    if loss.box_weight == 1:
        return None
    weights = torch.ones(len(boxes), 1, size, size)
    for image, found in zip(weights, boxes, strict=True):
        for box in found:
            if is_named(box, loss.box_labels):
                rows = slice(max(0, round(box.top)), max(0, round(box.bottom)))
                image[:, rows, max(0, round(box.left)) : max(0, round(box.right))] = loss.box_weight
    return weights


def is_named(box: Box, labels: tuple[str, ...]) -> bool:
    """Whether a recipe's `box_labels` mean this box: "glyph" is any drawn character, none at all is all."""
    return not labels or box.label in labels or (GLYPH in labels and box.glyph)

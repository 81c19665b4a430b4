"""The discriminator's side: its hinge loss, when it learns and is heard, and how much its word weighs.

Hinge: Lim and Ye 2017 (https://arxiv.org/abs/1705.02894). The adaptive weight is that of Esser, Rombach and Ommer 2021
(https://arxiv.org/abs/2012.09841), equation 7.
"""

from torch import Tensor
from torch.nn import functional as F

from vaelens.finetuning.recipe import Gan

EPS = 1e-4
LARGEST = 1e4


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half of mean(relu(1 - real)) + mean(relu(1 + fake)), of logits; 0 is a perfect judge, 1 one who knows nothing."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """Minus the mean of the logits."""
    return -fake.mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, elements: int = 1) -> Tensor:
    """How much larger the reconstruction's gradient is, a scalar.

    |reconstruction| / (|adversarial| + 1e-4), at most 1e4, where both are gradients at the decoder's last weight, the
    first one of a loss summed over an image. `elements`: by what a loss that is a mean was divided; the bounds follow,
    so that both forms of a recipe train alike.
    """
    ours, theirs = (gradient.detach().square().sum().sqrt() for gradient in (reconstruction, adversarial))
    return (ours / (theirs + EPS)).clamp_max(LARGEST / elements)


def is_learning(gan: Gan, updates: int) -> bool:
    """Whether the discriminator learns in the update after so many generator updates."""
    return gan.weight > 0 and updates >= gan.start - gan.warm_up


def is_heard(gan: Gan, updates: int) -> bool:
    """Whether the generator hears of the discriminator in the update after so many generator updates."""
    return gan.weight > 0 and updates >= gan.start

"""The values of one half of a VAE to compare with: digests are made only where a few values don't tell halves apart."""

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from vaelens.weights.fingerprint import HALF_PRECISIONS, HalfContent, exact_in, half_content

SAMPLED = 256  # the first values of each tensor


class HalfValues:
    """An encoder or a decoder, by its weights, its content or both; `content` is called once at most."""

    def __init__(self, weights: Mapping[str, Tensor] | None, content: Callable[[], HalfContent]) -> None:
        self.weights = weights
        self._content = content

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> "HalfValues":
        """That of weights, whose content is made if need be."""
        return cls(weights, lambda: half_content(weights))

    @cached_property
    def content(self) -> HalfContent:
        """With its digests."""
        return self._content()

    @cached_property
    def exact_in(self) -> tuple[str, ...]:
        """The half precisions that hold all values; for weights without their digests."""
        return self.content.exact_in if self.weights is None else exact_in(self.weights)

    def same_as(self, other: "HalfValues") -> bool:
        """As `HalfContent.same_as`."""
        return not self._differs(other) and self.content.same_as(other.content)

    def _differs(self, other: "HalfValues") -> bool:
        """Whether a few values tell that the halves aren't the same: they differ after rounding to either precision."""
        if self.weights is None or other.weights is None or self.weights.keys() != other.weights.keys():
            return False
        return all(not torch.equal(a, b) for a, b in zip(self._samples, other._samples, strict=True))

    @cached_property
    def _samples(self) -> list[Tensor]:
        """The bits of the first values of all tensors in each half precision."""
        assert self.weights is not None
        first = [self.weights[name].reshape(-1)[:SAMPLED] for name in sorted(self.weights)]
        return [
            torch.cat([values.to(precision) for values in first]).view(torch.int16) for precision in HALF_PRECISIONS
        ]

"""What one half of a VAE is, in types and words: the same as another's, a mixture, near another's, or unknown."""

from dataclasses import dataclass
from typing import Literal

from vaelens.identification.weights.closeness.mixtures import Kind
from vaelens.text.numbers import counted

Sameness = Literal["same", "rounded", "close"]

NEAR = 0.5  # relative L2 distance; beyond it a long fine-tuning and a training of its own can't be told apart
LISTED = 3
FAR = 1.0  # relative L2 distance; beyond it not even which one is the nearest says anything
FEW = 12  # tensors that differ, so few that they are named
SCALED = "scaled for float16"
NONE_NEAR = "none of the VAEs at hand is near"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Nearest:
    """The nearest VAE at hand: name, space, relative L2 distance, and the tensors that differ, of how many.

    `is_comparable` is false for what is scaled for float16, whose distance from what isn't says nothing.
    """

    name: str
    space: str | None
    distance: float
    differing: tuple[str, ...]
    tensors: int
    is_comparable: bool = True

    @property
    def is_informative(self) -> bool:
        """Whether it says anything that this one is the nearest."""
        return self.is_comparable and self.distance <= FAR

    @property
    def is_near(self) -> bool:
        """Whether it is near enough to have been made from it."""
        return self.distance < NEAR


@dataclass(frozen=True)
class NamedMixture:
    """A mixture by the names of its parts with their weights; see `mixtures.Mixture`."""

    kind: Kind
    parts: tuple[tuple[str, float], ...]
    residual: float
    spaces: frozenset[str | None]

    def __str__(self) -> str:
        names = [name for name, _ in self.parts]
        weights = [weight for _, weight in self.parts]
        left = f" (residual {percent(self.residual)})"
        if self.kind == "average":
            return f"a weighted average of {_and(names)}: {' / '.join(f'{w:.2f}' for w in weights)}{left}"
        if self.kind == "difference":
            return _difference(self.parts) + left
        terms = [f"{'-' if w < 0 else '+'} {abs(w):.2f} {TIMES} {name}" for name, w in self.parts]
        return " ".join(terms).removeprefix("+ ") + left


@dataclass(frozen=True)
class HalfVerdict:
    """One half.

    `same_as` are the names of the VAEs at hand that have it, known ones where there are any (`are_known`), and
    `sameness` how: the same values; one rounded to half precision from the other; or as close as rounding explains.
    Without any, `mixture` and `nearest` are what comparison found, if there was something to compare with;
    `nearest_known` is the nearest known or named VAE, where `nearest` is only another file of the call. `is_scaled`
    says that all this is of the values before they were scaled for float16, as the file's metadata say they were.
    """

    same_as: tuple[str, ...] = ()
    sameness: Sameness = "same"
    are_known: bool = False
    space: str | None = None
    mixture: NamedMixture | None = None
    nearest: Nearest | None = None
    nearest_known: Nearest | None = None
    is_scaled: bool = False

    @property
    def is_identified(self) -> bool:
        """Whether it is a known VAE's."""
        return bool(self.same_as) and self.are_known

    @property
    def parts(self) -> tuple[str, ...]:
        """The VAEs whose weights are in it: those that it is the same as, or a mixture of."""
        return self.same_as + tuple(name for name, _ in (self.mixture.parts if self.mixture is not None else ()))

    @property
    def form(self) -> str:
        """What follows the name of what it is, where it was changed: that it was scaled."""
        return f", {SCALED}" if self.is_scaled else ""

    def nearest_text(self, what: str) -> str:
        """What is near, in words; `nearest` must be there."""
        assert self.nearest is not None
        undone = f"{what}, the scaling for float16 undone," if self.is_scaled else what
        text, known = nearest_text(self.nearest, undone), self.nearest_known
        if known is None or not known.is_informative:
            return text
        return f"{text}; of known VAEs: {known.name}, {percent(known.distance)} apart"

    def __str__(self) -> str:
        if self.same_as:
            close = ", up to rounding" if self.sameness == "close" else ""
            return _and(self.same_as) + close + self.form
        if self.mixture is not None:
            return str(self.mixture) + self.form
        return "unknown" + (f"; {self.nearest_text('weights')}" if self.nearest is not None else "")


def nearest_text(nearest: Nearest, what: str) -> str:
    """Which VAE is the nearest and how far: "nearest: kl-f8-anime2, decoder weights 3.0 % apart"; or that none is."""
    if not nearest.is_informative:
        return NONE_NEAR
    text = f"nearest: {nearest.name}, {what} {percent(nearest.distance)} apart"
    if not nearest.is_near:
        return f"{text}, too far to call them related"
    if len(nearest.differing) > FEW or len(nearest.differing) == nearest.tensors:
        return text
    shown = ", ".join(nearest.differing[:LISTED]) + (", ..." if len(nearest.differing) > LISTED else "")
    return f"{text}, in {len(nearest.differing)} of {counted(nearest.tensors, 'tensor')} ({shown})"


def percent(share: float) -> str:
    """A share with two digits that count: 3.0 %, 0.012 %; below what is resolved, "below 0.0001 %"."""
    value = 100 * share
    if value < 1e-4:
        return "below 0.0001 %"
    if value >= 10:
        return f"{value:.0f} %"
    return f"{value:.{1 if value >= 1 else 2 if value >= 0.1 else 3 if value >= 0.01 else 4}f} %"


def _difference(parts: tuple[tuple[str, float], ...]) -> str:
    """a + m (b - c): a's weight is 1, those of b and c are m and -m."""
    base = min(parts, key=lambda part: abs(part[1] - 1))
    (added, _), (taken, m) = sorted((part for part in parts if part is not base), key=lambda part: -part[1])
    return f"{base[0]} + {abs(m):.2f} {TIMES} ({added} - {taken})"


def _and(names: tuple[str, ...] | list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

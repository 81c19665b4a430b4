"""Plots of scores as SVG, for light and dark pages.

Names of VAEs and images are not part of a plot: the page shows them beside it as text. The same values give the same
bytes: no dates, no random ids. For many images a plot shows counts, so that it stays small.
"""

import base64
import io
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from vaelens.report.tables import MINUS, Better, escaped

# Told apart with every common kind of colour blindness, by lightness too; more VAEs than these get other strokes.
COLOURS = (  # on a light page, on a dark one
    ("#0068b4", "#5fb4f2"),
    ("#c84e00", "#ff9447"),
    ("#00836a", "#34cfa6"),
    ("#a33e8c", "#e79bd2"),
    ("#7a6a00", "#e3cf4a"),
    ("#5a5a5a", "#b8b8b8"),
)
STROKES = ("-", (0, (5, 2)), (0, (1, 1.5)))
MAX_POINTS = 1000  # more are shown as a density
CELLS = 64  # of a density, along a side
MAX_CURVE_POINTS = 400
MAX_BINS = 80

# Names for colours that the page's scheme decides, as what Matplotlib takes for a colour.
_INK, _RULE = "#010000", "#020000"
_SIZE = (3.6, 2.5)  # inches of 72 points, which are 100 CSS pixels here
_SETTINGS = {
    "svg.hashsalt": "vaelens",
    "svg.fonttype": "none",
    "path.simplify": False,
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.edgecolor": _RULE,
    "axes.linewidth": 0.8,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "lines.linewidth": 1.3,
    "figure.subplot.left": 0.2,
    "figure.subplot.right": 0.97,
    "figure.subplot.bottom": 0.17,
    "figure.subplot.top": 0.96,
}


def palette_css() -> str:
    """The style that gives the plots' colours their values, and the classes v0, v1, ... of VAEs' legends."""
    strokes = ("solid", "dashed", "dotted")
    keys = "".join(
        f".v{n}{{border-top:3px {strokes[n // len(COLOURS)]} var(--v{n % len(COLOURS)})}}"
        for n in range(len(COLOURS) * len(strokes))
    )
    return _colours_css() + keys + "\n"


def _colours_css() -> str:
    light, dark = ("".join(f"--v{n}:{pair[scheme]};" for n, pair in enumerate(COLOURS)) for scheme in (0, 1))
    return (
        f":root{{--ink:#1b1b1b;--line:#8c8c8c;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{--ink:#e6e6e6;--line:#7d7d7d;{dark}}}}}\n"
    )


def key_class(number: int) -> str:
    """The class, in `palette_css`, of the VAE with that number."""
    return f"v{number % (len(COLOURS) * len(STROKES))}"


def image_tag(svg: str, alt: str) -> str:
    """The plot as an <img> that needs nothing from outside the page."""
    data = base64.b64encode(svg.encode()).decode("ascii")
    return f'<img src="data:image/svg+xml;base64,{data}" width="360" height="250" alt="{escaped(alt)}">'


def distributions(values: Sequence[np.ndarray], label: str) -> str:
    """Histograms over each other, one for each [n] of finite values, in parts of its images; a mark at each mean.

    `label` is the values' name. Raises ValueError where there is none at all.
    """
    together = np.concatenate(values)
    low, high = _limits(together)
    longest = max(len(one) for one in values)
    bins = int(np.clip(3 * np.cbrt(longest), 8, MAX_BINS))
    with _plot() as (axes, svg):
        for number, one in enumerate(values):
            if not len(one):
                continue
            counts, edges = np.histogram(one, bins, (low, high))
            line: dict[str, Any] = {"color": _colour(number), "linestyle": _stroke(number)}
            axes.stairs(100 * counts / len(one), edges, baseline=None, **line)
            axes.axvline(float(one.mean()), 0, 0.05, linewidth=2.5, color=_colour(number))
        axes.set(xlabel=label, ylabel="images, %", xlim=(low, high))
        axes.set_ylim(bottom=0)
    return svg[0]


def scatter(first: np.ndarray, second: np.ndarray) -> str:
    """Each image's value with one VAE, to the right, against another's, upwards, [n] each; equal on the diagonal.

    Many images are counted in cells, the darker the more (by the logarithm). Raises ValueError for none.
    """
    low, high = _limits(np.concatenate([first, second]))
    with _plot() as (axes, svg):
        axes.plot([low, high], [low, high], color=_RULE, linewidth=0.8, linestyle=(0, (4, 3)))
        if len(first) <= MAX_POINTS:
            gap = np.full_like(first, np.nan)
            x, y = (np.stack([v, v, gap], axis=1).ravel() for v in (first, second))
            # One path of dots, as strokes of no length: a tenth of the size of as many markers.
            axes.plot(x, y, color=_INK, alpha=0.55, linewidth=2.4, solid_capstyle="round")
        else:
            counts, _, _ = np.histogram2d(second, first, CELLS, ((low, high), (low, high)))
            shades = np.zeros((CELLS, CELLS, 4))
            shades[..., :3] = (0.46, 0.52, 0.6)  # seen on light and on dark
            shades[..., 3] = np.where(counts > 0, 0.15 + 0.85 * np.log1p(counts) / np.log1p(counts.max()), 0)
            axes.imshow(shades, origin="lower", extent=(low, high, low, high), interpolation="nearest")
        axes.set(xlabel="first", ylabel="second", xlim=(low, high), ylim=(low, high), aspect="equal")
    return svg[0]


def differences(first: np.ndarray, second: np.ndarray, better: Better, vaes: tuple[int, int]) -> str:
    """The differences first - second of [n] images from the least to the largest.

    The area between curve and 0 has the colour of the VAE (by number) that is better there.
    Raises ValueError for no images.
    """
    ordered = np.sort(first - second)
    if not len(ordered):
        raise ValueError("no images")
    share = np.linspace(0, 100, min(MAX_CURVE_POINTS, max(2, len(ordered))))
    curve = np.quantile(ordered, share / 100)
    above, below = vaes if better == "higher" else vaes[::-1]
    with _plot() as (axes, svg):
        filled: dict[str, Any] = {"alpha": 0.5, "linewidth": 0, "interpolate": True}
        axes.fill_between(share, curve, 0, where=(curve >= 0).tolist(), color=_colour(above), **filled)
        axes.fill_between(share, curve, 0, where=(curve <= 0).tolist(), color=_colour(below), **filled)
        axes.plot(share, curve, color=_INK, linewidth=1)
        axes.axhline(0, color=_RULE, linewidth=0.8)
        axes.set(xlabel="images in order, %", ylabel=f"first {MINUS} second", xlim=(0, 100))
    return svg[0]


@contextmanager
def _plot() -> Generator[tuple[Any, list[str]]]:
    """Axes to draw into, of no type as Matplotlib's options have none; when they are left, the list holds the SVG."""
    done: list[str] = []
    library: Any = mpl
    with library.rc_context():
        library.rcdefaults()  # whatever settings the user's own plots have
        library.rcParams.update(_SETTINGS)
        figure: Any = Figure(figsize=_SIZE)
        axes = figure.subplots()
        yield axes, done
        axes.locator_params(nbins=6)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    done.append(_themed(out.getvalue()))


def _themed(svg: str) -> str:
    """Without preamble, coordinates with two decimals, the system's font, and colours by name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]).replace("\n", ""), svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", svg)
    for name, colour in (("--ink", _INK), ("--line", _RULE), *((f"--v{n}", _colour(n)) for n in range(len(COLOURS)))):
        svg = svg.replace(colour, f"var({name})")
    return svg.replace("<defs>", f"<style>{_colours_css()}</style><defs>", 1)


def _limits(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        raise ValueError("no values")
    low, high = float(values.min()), float(values.max())
    margin = 0.03 * (high - low) or 0.05 * abs(high) or 0.5
    return low - margin, high + margin


def _colour(number: int) -> str:
    return f"#03000{number % len(COLOURS)}"


def _stroke(number: int) -> Any:
    return STROKES[number // len(COLOURS) % len(STROKES)]

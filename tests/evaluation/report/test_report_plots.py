"""The plots of a report: small, the same each time, and drawn for degenerate values too."""

import re

import matplotlib as mpl
import numpy as np
import pytest

from vaelens.report import plots


def test_plots_are_small_for_many_images_and_have_no_dates() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(24, 3, 50_000)
    b = a + rng.normal(0.3, 0.5, 50_000)
    svgs = [plots.distributions([a, b], "PSNR, dB"), plots.scatter(a, b), plots.differences(a, b, "higher", (0, 1))]
    for svg in svgs:
        assert len(svg) < 40_000
        assert "prefers-color-scheme:dark" in svg
        assert not re.search(r"20\d\d-\d\d|#0[123]000|DejaVu|dc:date", svg)
    assert svgs[1] == plots.scatter(a, b)
    few = plots.scatter(a[:50], b[:50])
    assert len(re.findall(r"M [\d.]+ [\d.]+ ?L", few)) >= 50, "each image is a dot of its own"


def test_the_users_own_plot_settings_change_nothing() -> None:
    values = [np.arange(9.0)]
    plain = plots.distributions(values, "x")
    with mpl.rc_context({"font.size": 30, "axes.grid": True, "axes.titlesize": 40}):
        assert plots.distributions(values, "x") == plain
        assert mpl.rcParams["font.size"] == 30


def test_equal_and_constant_values_can_be_plotted() -> None:
    same = np.full(5, 0.25)
    assert "<svg" in plots.distributions([same, same[:0]], "SSIM")
    assert "<svg" in plots.scatter(same, same)
    assert "<svg" in plots.differences(same, same, "lower", (0, 1))
    for empty in (
        lambda: plots.distributions([same[:0]], "x"),
        lambda: plots.differences(same[:0], same[:0], "lower", (0, 1)),
    ):
        with pytest.raises(ValueError, match="no "):
            empty()


def test_the_colour_of_a_difference_is_that_of_the_better_vae() -> None:
    a, b = np.array([3.0, 4.0, 5.0]), np.array([1.0, 1.0, 1.0])
    for better, number in (("higher", 2), ("lower", 4)):
        filled = re.findall(r"fill: var\(--v(\d)\)", plots.differences(a, b, better, (2, 4)))
        assert set(filled) == {str(number)}, better

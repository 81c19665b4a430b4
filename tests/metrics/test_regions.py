"""Measures of a box, by closed forms and plain loops over pixels."""

import math

import pytest
import torch
from torch import Tensor

from vaelens.images.drawing import Box
from vaelens.metrics.regions import gradient_energy, measure_regions, region_psim, region_psnr, region_ssim, stratum
from vaelens.metrics.ssim import ssim_map


def eye(left: float, top: float, right: float, bottom: float) -> Box:
    return Box("eye", left, top, right, bottom)


def pair(h: int = 40, w: int = 52) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, h, w, generator=generator)
    return (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1), x


def test_psnr_of_the_pixels_that_the_box_touches() -> None:
    reference = torch.zeros(3, 20, 20, dtype=torch.float64)
    image = reference.clone()
    image[:, 4:7, 10:12] = 0.1
    assert math.isclose(region_psnr(image, reference, eye(10.2, 4.0, 11.1, 6.5)), 20, rel_tol=1e-12)
    wider = region_psnr(image, reference, eye(9.9, 4.0, 11.1, 6.5))  # one column of zeros beside two of 0.1
    assert math.isclose(wider, -10 * math.log10(0.01 * 2 / 3), rel_tol=1e-12)
    assert region_psnr(image, reference, eye(0, 0, 4, 4)) == math.inf
    assert math.isclose(region_psnr(image, reference, eye(10.3, 4.2, 10.3, 4.2)), 20, rel_tol=1e-12)  # one pixel
    assert math.isclose(region_psnr(image, reference, eye(11, 6, 11, 6)), 20, rel_tol=1e-12)


def test_a_box_is_cut_at_the_edges_and_refused_outside() -> None:
    image, reference = pair()
    assert region_psnr(image, reference, eye(-9, -3, 8, 5)) == region_psnr(image, reference, eye(0, 0, 8, 5))
    assert region_psnr(image, reference, eye(45, 33, 99, 99)) == region_psnr(image, reference, eye(45, 33, 52, 40))
    for box in (eye(52, 3, 60, 8), eye(-5, 3, 0, 8), eye(3, 40, 8, 44), eye(3, -4, 8, -1), eye(-3, -3, -3, -3)):
        with pytest.raises(ValueError, match="of eye lies outside of the image of 52x40 pixels"):
            region_psnr(image, reference, box)


@pytest.mark.parametrize(("padding", "border"), [("zero", 0), ("valid", 5)])
def test_ssim_of_the_windows_centred_in_the_box(padding: str, border: int) -> None:
    image, reference = pair()
    whole = ssim_map(image[None], reference[None], padding)[0]
    for box in (eye(10, 12, 20, 15), eye(0.5, 0.5, 9, 7), eye(40, 30, 52, 40)):
        inside = [
            whole[c, i - border, j - border].item()
            for c in range(3)
            for i in range(math.floor(box.top), math.ceil(box.bottom))
            for j in range(math.floor(box.left), math.ceil(box.right))
            if border <= i < 40 - border and border <= j < 52 - border
        ]
        assert math.isclose(region_ssim(whole, box, (40, 52)), sum(inside) / len(inside), rel_tol=1e-12)


def test_ssim_has_no_window_at_the_border_of_a_valid_map() -> None:
    image, reference = pair()
    valid = ssim_map(image[None], reference[None], "valid")[0]
    for box in (eye(0, 10, 5, 20), eye(47, 10, 52, 20), eye(10, 0, 20, 5), eye(10, 35, 20, 40)):
        assert region_ssim(valid, box, (40, 52)) is None
    assert region_ssim(valid, eye(46, 10, 52, 20), (40, 52)) is not None
    assert region_ssim(valid, eye(0, 10, 6, 20), (40, 52)) is not None


def test_psim_of_the_cells_centred_in_the_box() -> None:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.rand(40 // f, 52 // f, generator=generator, dtype=torch.float64) for f in (1, 2, 4, 13)]
    for box in (eye(10, 12, 20, 15), eye(0.5, 0.5, 9, 7), eye(3, 3, 4, 4), eye(51, 39, 52, 40), eye(0, 0, 52, 40)):
        left, right = math.floor(box.left), math.ceil(box.right)
        top, bottom = math.floor(box.top), math.ceil(box.bottom)
        expected = 0.0
        for cells in maps:
            h, w = cells.shape
            ys, xs = [(i + 0.5) * 40 / h for i in range(h)], [(j + 0.5) * 52 / w for j in range(w)]
            rows = [i for i in range(h) if top <= ys[i] < bottom]
            rows = rows or [min(range(h), key=lambda i, y=ys: abs(y[i] - (top + bottom) / 2))]
            columns = [j for j in range(w) if left <= xs[j] < right]
            columns = columns or [min(range(w), key=lambda j, x=xs: abs(x[j] - (left + right) / 2))]
            expected += sum(cells[i, j].item() for i in rows for j in columns) / len(rows) / len(columns)
        assert math.isclose(region_psim(maps, box, (40, 52)), expected, rel_tol=1e-12)


def test_psim_of_a_whole_image_is_the_sum_of_the_taps_means() -> None:
    maps = [torch.rand(20, 26), torch.rand(10, 13), torch.rand(3, 4)]
    whole = float(sum(cells.double().mean() for cells in maps))
    assert math.isclose(region_psim(maps, eye(0, 0, 52, 40), (40, 52)), whole, rel_tol=1e-12)


def test_gradient_energy_of_a_faded_image_is_the_square_of_its_contrast() -> None:
    _, reference = pair()
    reference = reference.double()
    assert gradient_energy(reference, reference, eye(3, 3, 9, 9)) == 1
    assert math.isclose(gradient_energy(0.5 + 0.3 * reference, reference, eye(3, 3, 9, 9)), 0.09, rel_tol=1e-9)


def test_gradient_energy_counts_the_steps_inside_the_box() -> None:
    reference = torch.zeros(3, 20, 20)
    reference[:, :, 10:] = 1  # an edge of 1 between columns 9 and 10
    image = torch.zeros(3, 20, 20)
    image[:, :, 10] = 0.5  # the same edge in two steps of a half
    image[:, :, 11:] = 1
    assert gradient_energy(image, reference, eye(5, 5, 15, 9)) == 0.5
    assert gradient_energy(image, reference, eye(5, 5, 11, 9)) == 0.25
    assert gradient_energy(image, reference, eye(10, 5, 15, 9)) is None  # the edge is outside, the inside is flat
    turned = gradient_energy(image.transpose(1, 2), reference.transpose(1, 2), eye(5, 5, 9, 15))
    assert turned == 0.5


def test_strata_by_the_smaller_side() -> None:
    for side, expected in ((0, "<8"), (7.99, "<8"), (8, "8-16"), (16, "16-32"), (31.9, "16-32"), (32, ">=32")):
        assert stratum(eye(1, 1, 1 + side, 90)) == expected
        assert stratum(eye(1, 1, 90, 1 + side)) == expected


def test_measure_regions_gives_a_row_a_box() -> None:
    image, reference = pair()
    similar = ssim_map(image[None], reference[None], "valid")[0]
    maps = {"psim": [torch.rand(20, 26), torch.rand(10, 13)]}
    boxes = [Box("left eye", 10, 12, 20, 22.5), Box("letter", 0, 0, 4, 4)]
    first, second = measure_regions(image, reference, boxes, similar, maps)
    assert first == {
        "label": "left eye",
        "box": [10, 12, 20, 22.5],
        "stratum": "8-16",
        "psnr": region_psnr(image, reference, boxes[0]),
        "ssim": region_ssim(similar, boxes[0], (40, 52)),
        "psim": region_psim(maps["psim"], boxes[0], (40, 52)),
        "gradient_energy": gradient_energy(image, reference, boxes[0]),
    }
    assert (second["label"], second["stratum"], second["ssim"]) == ("letter", "<8", None)
    assert "psim" not in measure_regions(image, reference, boxes, similar, {})[0]
    assert measure_regions(image, reference, [], similar, {}) == []
    with pytest.raises(ValueError, match="one shape"):
        measure_regions(image, reference[:, 1:], boxes, similar, {})

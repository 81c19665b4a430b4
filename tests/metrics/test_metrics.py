"""PSNR and SSIM against scikit-image, plain loops and closed forms."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vaelens.metrics.psnr import psnr
from vaelens.metrics.ssim import ssim, ssim_map


def pair(h: int = 40, w: int = 33) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, h, w, generator=generator, dtype=torch.float64)
    return x, (x + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)


def test_psnr_against_scikit_image() -> None:
    x, y = pair()
    for i, value in enumerate(psnr(y, x)):
        expected = peak_signal_noise_ratio(x[i].numpy(), y[i].numpy(), data_range=1)
        assert math.isclose(value, expected, rel_tol=1e-9)


def test_psnr_of_known_errors() -> None:
    x = torch.zeros(2, 3, 8, 8)
    y = torch.stack([torch.full((3, 8, 8), 0.1, dtype=torch.float64), torch.zeros(3, 8, 8, dtype=torch.float64)])
    first, second = psnr(y, x).tolist()
    assert math.isclose(first, 20, rel_tol=1e-12)
    assert second == math.inf


def test_valid_ssim_and_its_map_against_scikit_image() -> None:
    x, y = pair()
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    maps = ssim_map(y, x, "valid")
    for i, value in enumerate(ssim(y, x, padding="valid")):
        mean, cells = structural_similarity(x[i].numpy(), y[i].numpy(), channel_axis=0, data_range=1, **options)
        assert abs(value - mean) < 1e-6
        assert (maps[i] - torch.as_tensor(cells)[:, 5:-5, 5:-5]).abs().max() < 1e-12


def test_ssim_zero_padded_against_a_plain_loop() -> None:
    x, y = pair(9, 6)
    window = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(window, window) / window.sum() ** 2

    def moments(p: np.ndarray, i: int, j: int) -> float:
        return float((np.pad(p, 5)[i : i + 11, j : j + 11] * window).sum())

    for b, value in enumerate(ssim(y, x)):
        total = []
        for c in range(3):
            p, q = x[b, c].numpy(), y[b, c].numpy()
            for i in range(9):
                for j in range(6):
                    mp, mq = moments(p, i, j), moments(q, i, j)
                    vp, vq = moments(p * p, i, j) - mp**2, moments(q * q, i, j) - mq**2
                    cov = moments(p * q, i, j) - mp * mq
                    a, d = 0.01**2, 0.03**2
                    total.append((2 * mp * mq + a) * (2 * cov + d) / ((mp**2 + mq**2 + a) * (vp + vq + d)))
        assert abs(value - np.mean(total)) < 1e-9


def test_ssim_is_the_mean_of_its_map_and_valid_the_middle_of_zero() -> None:
    x, y = pair()
    whole, middle = ssim_map(y, x, "zero"), ssim_map(y, x, "valid")
    assert whole.shape == (2, 3, 40, 33)
    assert torch.allclose(whole[:, :, 5:-5, 5:-5], middle, rtol=0, atol=1e-12)
    assert torch.equal(ssim(y, x), whole.mean(dim=(1, 2, 3)))
    assert torch.equal(ssim(y, x, padding="valid"), middle.mean(dim=(1, 2, 3)))
    assert torch.equal(whole[1:], ssim_map(y[1:], x[1:], "zero")), "an image is measured alone as in a batch"
    assert (ssim(y, x) - ssim(y, x, padding="valid")).abs().min() > 1e-3


def test_ssim_of_equal_images_is_one_at_any_size() -> None:
    for size in ((1, 1), (7, 9), (1, 50)):
        x = torch.rand(1, 3, *size)
        assert math.isclose(ssim(x, x), 1, abs_tol=1e-12)


def test_shapes_must_agree() -> None:
    for measure in (psnr, ssim):
        with pytest.raises(ValueError, match="one shape"):
            measure(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9))
    with pytest.raises(ValueError, match="needs 11x11"):
        ssim(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), padding="valid")

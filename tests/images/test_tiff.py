"""Every kind of TIFF that Pillow opens: the values that the file means, or one sentence. Expected values by hand."""

from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from support.images.written_files import tiff
from vaelens.errors import BadInputError
from vaelens.images.reading import decode_bytes

RAMP = [0, 100, 200, 255]
EMPTY = [0] * 252


def grey(data: bytes) -> np.ndarray:
    image = decode_bytes(data, "a").image[0].numpy()
    assert np.array_equal(image[0], image[1])
    assert np.array_equal(image[0], image[2])
    return image[0]


def rgb(data: bytes) -> list[list[int]]:
    return (decode_bytes(data, "a").image[0, :, 0].T.numpy() * 255).round().astype(int).tolist()


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_grey_has_the_values_that_tifffile_and_opencv_read(order: str) -> None:
    values = np.array([[0, 1, 4095, 40000, 65535]], dtype=order + "u2")
    data = tiff((5, 1), 16, 1, values.tobytes(), order=order)
    assert np.array_equal(grey(data), values.astype(np.float32) / 65535)
    others: list[Any] = [tifffile.imread(_stream(data)), cv2.imdecode(np.frombuffer(data, np.uint8), -1)]
    assert all(np.array_equal(values, other) for other in others)


def _stream(data: bytes) -> Any:
    from io import BytesIO

    return BytesIO(data)


def test_16_bit_grey_with_white_as_zero_is_turned_round() -> None:
    values = np.array([[0, 1, 40000, 65535]], dtype="<u2")
    found = grey(tiff((4, 1), 16, 0, values.tobytes()))
    assert np.allclose(found, [[1, 65534 / 65535, 25535 / 65535, 0]], atol=1e-7)


def test_12_bit_grey_is_scaled_by_its_own_white() -> None:
    """Two values in three bytes, as OpenCV reads them (it shifts them to 16 bits)."""
    data = tiff((4, 1), 12, 1, bytes([0x00, 0x0F, 0xFF, 0x12, 0x3A, 0xBC]))
    expected = np.array([[0, 4095, 0x123, 0xABC]])
    assert np.allclose(grey(data), expected / 4095, atol=1e-7)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), -1), expected << 4)
    assert decode_bytes(data, "a").notes == ("12-bit grey, scaled",)


@pytest.mark.parametrize(("bits", "packed", "values"), [
    (1, [0b10100000], [1, 0, 1, 0]),
    (2, [0b00011011], [0, 1 / 3, 2 / 3, 1]),
    (4, [0x0F, 0x5A], [0, 1, 1 / 3, 2 / 3]),
    (8, [0, 255, 51, 102], [0, 1, 0.2, 0.4]),
])  # fmt: skip
def test_grey_of_up_to_8_bits_with_black_or_white_as_zero(bits: int, packed: list[int], values: list[float]) -> None:
    for photometric in (0, 1):
        expected = values if photometric else [1 - value for value in values]
        assert np.allclose(grey(tiff((4, 1), bits, photometric, bytes(packed))), [expected], atol=1e-6)


def test_a_palette_of_8_bit_values_is_taken_as_it_is() -> None:
    """As libtiff and OpenCV take it; a palette of 16-bit values by its high bytes."""
    red, green, blue = RAMP, RAMP[::-1], [7, 8, 9, 10]
    expected = [list(color) for color in zip(red, green, blue, strict=True)]
    for factor, notes in ((1, ("8-bit values in a palette of 16 bits, taken as they are",)), (257, ())):
        palette = [value * factor for part in (red, green, blue) for value in part + EMPTY]
        data = tiff((4, 1), 8, 3, bytes([0, 1, 2, 3]), t320=palette)
        assert rgb(data) == expected
        assert decode_bytes(data, "a").notes == notes
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[0, :, ::-1].tolist() == expected


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("photometric", "channels"), [(2, 3), (5, 4)])
def test_16_bit_colours_give_their_high_bytes_and_a_note(order: str, photometric: int, channels: int) -> None:
    values = [0x12FF, 0x8001, 0xFFFF, 0x00FF][:channels]
    data = tiff((1, 1), 16, photometric, np.array(values, dtype=order + "u2").tobytes(), channels, order)
    r, g, b, k = 0x12, 0x80, 0xFF, 0
    expected = [r, g, b] if channels == 3 else [(255 - v) * (255 - k) // 255 for v in (r, g, b)]
    assert rgb(data) == [expected]
    assert decode_bytes(data, "a").notes[0] == "16 bits per channel, the high byte kept"


def test_premultiplied_grey_with_alpha_is_laid_over_white() -> None:
    found = grey(tiff((2, 1), 8, 1, bytes([100, 200, 0, 0]), 2, t338=[1]))
    assert np.abs(found * 255 - [[155, 255]]).max() <= 1  # 100 / 200 * 255 over white: 100 + 55


def test_separate_planes_are_put_together() -> None:
    assert rgb(tiff((2, 1), 8, 2, bytes([1, 2, 3, 4, 5, 6]), 3, t284=[2])) == [[1, 3, 5], [2, 4, 6]]


def test_ycbcr_is_converted() -> None:
    data = tiff((2, 1), 8, 6, bytes([76, 85, 255, 150, 44, 21]), 3, t530=[1, 1])
    assert np.abs(np.array(rgb(data)) - [[254, 0, 0], [0, 255, 1]]).max() <= 1
    assert np.abs(np.array(rgb(data)) - cv2.imdecode(np.frombuffer(data, np.uint8), 1)[0, :, ::-1]).max() <= 1


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (tiff((4, 1), 8, 1, bytes([0, 127, 128, 255]), t339=[2]), "signed 8-bit values"),
        (tiff((2, 1), 16, 1, bytes(4), t339=[2]), "signed 16-bit values"),
        (tiff((2, 1), 32, 1, bytes(8), t339=[2]), "signed 32-bit values"),
        (tiff((2, 1), 32, 1, bytes(8)), "32-bit values without a defined range"),
        (tiff((2, 1), 32, 1, bytes(8), t339=[3]), "32-bit values without a defined range"),
        (tiff((2, 1), 16, 2, bytes(12), 3, t284=[2]), "separate uncompressed planes"),
        (tiff((2, 2), 8, 6, bytes(600), 3, t530=[2, 2]), "subsampled YCbCr"),
        (tiff((2, 2), 8, 6, bytes(600), 3), "subsampled YCbCr"),
        (tiff((2, 1), 16, 0, bytes(4), order=">"), "begins as a TIFF file, but is damaged, or of a kind"),
        (tiff((2, 1), 12, 0, bytes(3)), "begins as a TIFF file, but is damaged, or of a kind"),
        (tiff((2, 1), 24, 1, bytes(6)), "begins as a TIFF file, but is damaged, or of a kind"),
    ],
)
def test_kinds_that_pillow_gets_wrong_or_not_at_all_are_refused_in_one_sentence(data: bytes, what: str) -> None:
    with pytest.raises(BadInputError, match=what) as error:
        decode_bytes(data, "photo")
    assert str(error.value).startswith("photo ")
    assert "as PNG" in str(error.value) or "8 or 16 bits" in str(error.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiffs_orientation_is_applied_once_and_noted(orientation: int) -> None:
    upright = {1: [[1, 2, 3]], 2: [[3, 2, 1]], 3: [[3, 2, 1]], 4: [[1, 2, 3]],
               5: [[1], [2], [3]], 6: [[1], [2], [3]], 7: [[3], [2], [1]], 8: [[3], [2], [1]]}  # fmt: skip
    data = tiff((3, 1), 8, 1, bytes([1, 2, 3]), t274=[orientation])
    assert (grey(data) * 255).round().tolist() == upright[orientation]
    assert decode_bytes(data, "a").notes == (() if orientation == 1 else ("turned upright by its EXIF orientation",))


def test_a_tiffs_damaged_exif_directory_doesnt_cost_the_pixels() -> None:
    data = tiff((3, 1), 8, 1, bytes([1, 2, 3]), t34665=[7])
    assert (grey(data) * 255).round().tolist() == [[1, 2, 3]]

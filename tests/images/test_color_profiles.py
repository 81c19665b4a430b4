"""ICC profiles: what counts is what they do to colours, not what they are called."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from support.images.written_files import noise, saved
from vaelens.images.reading import DecodedImage, decode_bytes

P3 = {b"rXYZ": (0.51512, 0.24120, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189), b"bXYZ": (0.15710, 0.06657, 0.78407)}
TONE_CURVES = (b"rTRC", b"gTRC", b"bTRC")


def profile(name: str, *, linear: bool = False, primaries: dict[bytes, tuple[float, ...]] | None = None) -> bytes:
    """sRGB's profile with another name (four letters), with tone curves that are straight lines, or other primaries."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for i in range(struct.unpack(">I", data[128:132])[0]):
        tag, offset, _ = struct.unpack(">4sII", data[132 + 12 * i : 144 + 12 * i])
        if linear and tag in TONE_CURVES:
            data[offset : offset + 12] = b"curv" + b"\0\0\0\0" + struct.pack(">I", 0)
        if primaries and tag in primaries:
            data[offset + 8 : offset + 20] = struct.pack(">3i", *(round(v * 65536) for v in primaries[tag]))
        if tag == b"desc":
            start = data.find("sRGB".encode("utf-16-be"), offset)
            data[start : start + 8] = name.encode("utf-16-be")
    return bytes(data)


def decoded(image: Image.Image, icc: bytes) -> tuple[np.ndarray, DecodedImage]:
    found = decode_bytes(saved(image, "PNG", icc_profile=icc), "a")
    return (found.image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), found


def test_a_linear_profile_that_is_named_srgb_is_converted() -> None:
    pixels, found = decoded(Image.new("RGB", (2, 2), (55, 55, 55)), profile("sRGB", linear=True))
    assert np.abs(pixels.astype(int) - 128).max() <= 1  # 1.055 * (55 / 255)^(1 / 2.4) - 0.055 = 0.502
    assert "converted from the colour profile" in found.notes[0]


def test_wide_primaries_that_are_named_srgb_are_converted() -> None:
    """Display P3's pure green and a green inside sRGB, by the published matrices."""
    pixels, found = decoded(Image.new("RGB", (2, 2), (128, 160, 128)), profile("sRGB", primaries=P3))
    linear = np.array([*(((v / 255 + 0.055) / 1.055) ** 2.4 for v in (128, 160, 128))])
    to_srgb = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
    expected = 255 * (1.055 * (to_srgb @ linear) ** (1 / 2.4) - 0.055)
    assert np.abs(pixels[0, 0] - expected).max() < 2
    assert "converted from the colour profile" in found.notes[0]


@pytest.mark.parametrize("name", ["sRGB", "Mine", "Line"])
def test_srgbs_colorimetry_under_any_name_leaves_pixels_untouched(name: str) -> None:
    image = noise(16, 16)
    pixels, found = decoded(image, profile(name))
    assert np.array_equal(pixels, np.asarray(image))
    assert found.notes == ()


def test_srgb_with_rounded_numbers_leaves_pixels_untouched() -> None:
    """Writers round the primaries in the fourth place."""
    rounded = {b"rXYZ": (0.4361, 0.2225, 0.0139), b"gXYZ": (0.3851, 0.7169, 0.0971), b"bXYZ": (0.1431, 0.0606, 0.7139)}
    image = noise(16, 16)
    pixels, found = decoded(image, profile("Mine", primaries=rounded))
    assert np.array_equal(pixels, np.asarray(image))
    assert found.notes == ()


@pytest.mark.parametrize("damage", [slice(0, 128), slice(128, 200), slice(300, 600)])
def test_a_damaged_profile_costs_a_note_not_the_pixels(damage: slice) -> None:
    data = bytearray(profile("sRGB", linear=True))
    data[damage] = b"\xff" * len(data[damage])
    image = noise(16, 16)
    pixels, found = decoded(image, bytes(data))
    assert pixels.shape == (16, 16, 3)
    assert any("colour profile" in note for note in found.notes)
    if "ignored" in found.notes[0]:
        assert np.array_equal(pixels, np.asarray(image))


def test_a_profile_holds_for_every_strip_of_a_large_image() -> None:
    pixels, _ = decoded(Image.new("RGB", (1024, 600), (55, 55, 55)), profile("sRGB", linear=True))
    assert np.abs(pixels.astype(int) - 128).max() <= 1

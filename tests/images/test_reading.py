"""Reading images: one pixel-exact test for each rule, and what is refused; writing them."""

import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from vaelens.errors import BadInputError
from vaelens.images.headers import MAX_PIXELS
from vaelens.images.reading import decode_file, read_size
from vaelens.images.writing import encode_png, from_uint8, to_pixels, to_uint8


def read(path: Path, max_side: int | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels as bytes, which is exact, since every rule but 16-bit grey ends in 8 bits; and the notes."""
    decoded = decode_file(path, max_side=max_side)
    assert decoded.image.dtype == torch.float32
    assert decoded.image.shape[:2] == (1, 3)
    assert decoded.image.shape[2:] == decoded.size
    return (decoded.image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), decoded.notes


def random_pixels(h: int, w: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (h, w, channels), dtype=np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (513, 771), (1, 4096)])
def test_plain_rgb(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = random_pixels(*size)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    decoded, notes = read(tmp_path / "a.png")
    assert np.array_equal(decoded, pixels)
    assert notes == ()
    assert read_size(tmp_path / "a.png") == size
    assert torch.equal(
        decode_file(tmp_path / "a.png").image, torch.as_tensor(pixels).permute(2, 0, 1)[None].float() / 255
    )


def test_grey_and_one_bit_fill_all_channels(tmp_path: Path) -> None:
    grey = random_pixels(5, 4, 1)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read(tmp_path / "grey.png")[0], np.stack([grey] * 3, axis=-1))
    bits = grey > 127
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert np.array_equal(read(tmp_path / "bits.png")[0], np.stack([bits * np.uint8(255)] * 3, axis=-1))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_grey_is_scaled_not_saturated(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 1, 255], [256, 40000, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    image = decode_file(tmp_path / f"a{suffix}")
    expected = torch.as_tensor(values.astype(np.float32) / 65535)
    assert torch.equal(image.image, expected.expand(1, 3, 2, 3))
    assert image.notes == ("16-bit grey, scaled",)


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG written by hand, for what Pillow can't write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_rgb_takes_the_high_byte(tmp_path: Path) -> None:
    values = [0x0000, 0x12FF, 0xFFFF, 0x8001, 0x7FFF, 0x00FF]
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, b"\0" + struct.pack(">6H", *values)))
    pixels, notes = read(tmp_path / "a.png")
    assert pixels.tolist() == [[[0, 0x12, 0xFF], [0x80, 0x7F, 0]]]
    assert notes == ("16 bits per channel, the high byte kept",)


def test_a_palette_gives_its_colours_and_its_transparency_white(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "a.png")
    assert read(tmp_path / "a.png")[0].tolist() == [[[10, 20, 30], [200, 100, 50], [1, 2, 3]]]
    image.save(tmp_path / "b.png", transparency=1)
    pixels, notes = read(tmp_path / "b.png")
    assert pixels.tolist() == [[[10, 20, 30], [255, 255, 255], [1, 2, 3]]]
    assert notes == ("alpha laid over white",)


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    pixels = np.array([[[100, 150, 200, 255], [100, 150, 200, 0], [0, 0, 0, 51], [200, 0, 100, 128]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    colour, alpha = pixels[..., :3].astype(float), pixels[..., 3:] / 255.0
    expected = colour * alpha + 255 * (1 - alpha)
    decoded, notes = read(tmp_path / "a.png")
    assert np.abs(decoded - expected).max() <= 0.5 + 1e-9
    assert notes == ("alpha laid over white",)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    decoded, notes = read(tmp_path / "opaque.png")
    assert np.array_equal(decoded, pixels[..., :3])
    assert notes == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    pixels = random_pixels(3, 5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels.transpose(1, 0, 2)[:, ::-1],
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: pixels.transpose(1, 0, 2)[::-1],
    }[orientation]
    decoded, notes = read(tmp_path / "a.png")
    assert np.array_equal(decoded, turned)
    assert notes == (() if orientation == 1 else ("turned upright by its EXIF orientation",))


def test_orientation_holds_for_16_bit_grey_too(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 2000]], dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    image = decode_file(tmp_path / "a.png").image
    assert torch.equal(image[0, 0], torch.tensor([[0.0], [1000 / 65535], [2000 / 65535]]))


def test_cmyk_without_a_profile_is_converted_plainly(tmp_path: Path) -> None:
    pixels = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [100, 50, 0, 0]]], dtype=np.uint8)
    Image.fromarray(pixels, mode="CMYK").save(tmp_path / "a.tif")
    decoded, notes = read(tmp_path / "a.tif")
    assert decoded.tolist() == [[[255] * 3, [0, 255, 255], [0] * 3, [155, 205, 255]]]
    assert notes == ("CMYK without a usable profile, converted by Pillow",)


def linear_profile() -> bytes:
    """sRGB's profile with its three tone curves replaced by a straight line: linear light."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    for i in range(count):
        tag, offset, _ = struct.unpack(">4sII", data[132 + 12 * i : 144 + 12 * i])
        if tag in {b"rTRC", b"gTRC", b"bTRC"}:
            data[offset : offset + 12] = b"curv" + b"\0\0\0\0" + struct.pack(">I", 0)
        if tag == b"desc":
            start = data.find("sRGB".encode("utf-16-be"), offset)
            data[start : start + 8] = "Line".encode("utf-16-be")
    return bytes(data)


def test_a_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    """Linear light to sRGB has a closed form: x <= 0.0031308 ? 12.92 x : 1.055 x^(1/2.4) - 0.055."""
    values = np.arange(256, dtype=np.uint8)
    pixels = np.stack([values] * 3, axis=-1)[None]
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=linear_profile())
    x = values / 255.0
    expected = 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    decoded, notes = read(tmp_path / "a.png")
    difference = np.abs(decoded[0].astype(float) - expected[:, None])
    assert difference.max() < 1.0  # the colour engine's own 8-bit rounding
    assert np.abs(decoded[0].astype(float) - pixels[0]).max() > 60  # something was converted
    assert "converted from the colour profile" in notes[0]


def test_srgb_and_a_broken_profile_leave_pixels_unchanged(tmp_path: Path) -> None:
    pixels = random_pixels(16, 16)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile, expected in ((srgb, ""), (b"no profile at all", "colour profile ignored")):
        Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
        decoded, notes = read(tmp_path / "a.png")
        assert np.array_equal(decoded, pixels)
        assert len(notes) == bool(expected)
        assert expected in "".join(notes)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_the_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], duration=50, **options)
    decoded, notes = read(tmp_path / f"a{suffix}")
    assert decoded.tolist() == [[[255, 0, 0]] * 4] * 4
    assert notes == ("the first of 2 frames or pages",)


def test_shrinking_keeps_the_shape_and_the_range(tmp_path: Path) -> None:
    pixels = random_pixels(60, 200)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = decode_file(tmp_path / "a.png", max_side=50).image
    assert 0 <= image.min() <= image.max() <= 1
    decoded, notes = read(tmp_path / "a.png", max_side=50)
    assert decoded.shape == (15, 50, 3)
    assert notes == ("shrunk from 200x60",)
    expected = np.asarray(Image.fromarray(pixels).resize((50, 15), Image.Resampling.LANCZOS))
    assert np.abs(decoded.astype(int) - expected).max() <= 1
    assert read(tmp_path / "a.png", max_side=200)[1] == ()


def test_a_huge_png_is_refused_from_its_header(tmp_path: Path) -> None:
    """50,000 x 50,000 pixels in a file of some bytes: no pixel is decoded, and no memory taken."""
    import tracemalloc

    (tmp_path / "bomb.png").write_bytes(png(50_000, 50_000, 8, 2, b"\0" * 1000))
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(BadInputError, match=rf"reads at most {MAX_PIXELS}"):
        decode_file(tmp_path / "bomb.png")
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
    assert seconds < 1  # generous: decoding would take minutes


def test_just_too_many_pixels_are_refused_with_their_size(tmp_path: Path) -> None:
    """Below Pillow's own alarm, above our limit."""
    (tmp_path / "a.png").write_bytes(png(12_000, 12_000, 1, 0, b""))
    with pytest.raises(BadInputError, match=r"has 12000x12000 pixels"):
        read_size(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"just some text, named .png", "is a text file, not an image"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is an EPS"),
        (b"8BPS\0\1" + b"\0" * 40, "is a PSD"),
        (b"%PDF-1.7\n", "is a PDF"),
    ],
)
def test_files_of_other_formats_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadInputError, match=message):
        decode_file(tmp_path / "a.png")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_truncated_images_are_refused(tmp_path: Path, form: str) -> None:
    out = io.BytesIO()
    Image.fromarray(random_pixels(64, 64)).save(out, form)
    for share in (0.3, 0.6, 0.9):
        (tmp_path / "a").write_bytes(out.getvalue()[: int(len(out.getvalue()) * share)])
        with pytest.raises(BadInputError, match=r"Copy it again|isn't an image that vaelens knows"):
            decode_file(tmp_path / "a")


def test_32_bit_values_without_a_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BadInputError, match="without a defined range"):
        decode_file(tmp_path / "a.tif")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="No such file"):
        decode_file(tmp_path / "nowhere.png")
    with pytest.raises(BadInputError, match="is a folder"):
        decode_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInputError, match=r"is a device, pipe or socket, not an image\. Name an image file"):
        decode_file(tmp_path / "pipe")


def test_a_png_that_mentions_svg_is_a_png(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(random_pixels(4, 4), {"Comment": "<svg is fun>"}))
    assert decode_file(tmp_path / "a.png").size == (4, 4)


@pytest.mark.parametrize("profile", [None, linear_profile()])
def test_grey_with_alpha(tmp_path: Path, profile: bytes | None) -> None:
    grey = Image.fromarray(np.array([[[90, 255], [90, 0]]], dtype=np.uint8), mode="LA")
    grey.save(tmp_path / "a.png", icc_profile=profile)
    decoded, notes = read(tmp_path / "a.png")
    assert decoded.tolist() == [[[90, 90, 90], [255, 255, 255]]]
    assert ("grey with alpha: its colour profile ignored" in notes) == (profile is not None)


def test_lab_is_converted_by_pillow_with_a_note(tmp_path: Path) -> None:
    """Lightness 0, 50 and 100 % without colour: black, a middle grey, white."""
    lab = Image.merge("LAB", [Image.frombytes("L", (3, 1), bytes(v)) for v in ((0, 128, 255), [128] * 3, [128] * 3)])
    lab.save(tmp_path / "a.tif")
    decoded, notes = read(tmp_path / "a.tif")
    assert np.abs(decoded[0].astype(int) - [[0] * 3, [119] * 3, [255] * 3]).max() <= 6
    assert notes == ("LAB colours, converted by Pillow",)


def test_rounding_to_bytes_is_to_the_nearest() -> None:
    image = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 1.0, 2.0]).reshape(1, 1, 1, 7)
    image = image.expand(1, 3, 1, 7)
    assert to_uint8(image)[0, 0, 0].tolist() == [0, 0, 0, 1, 255, 255, 255]
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 1, 256).expand(1, 3, 1, 256)
    assert torch.equal(to_uint8(from_uint8(every)), every)


def test_png_is_lossless_and_carries_text() -> None:
    pixels = random_pixels(9, 7)
    data = encode_png(pixels, {"vae": "ft-MSE ✓ 日本", "vaelens": '{"a": 1}'})
    opened = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(opened), pixels)
    assert opened.text == {"vae": "ft-MSE ✓ 日本", "vaelens": '{"a": 1}'}
    assert np.array_equal(to_pixels(torch.as_tensor(pixels).permute(2, 0, 1)[None] / 255), pixels)

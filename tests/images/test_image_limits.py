"""What reading an image may cost: pixels, memory and the parts of a header; and the option that allows more."""

import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.commands import invoke
from support.images.written_files import chunk, noise, png, saved
from support.properties import MB, Tally
from vaelens.errors import BadInputError, UsageError
from vaelens.images.headers import MAX_PIXELS, max_pixels, pixel_limit
from vaelens.images.reading import decode_bytes, decode_file, decode_plain, read_size, read_text
from vaelens.web.uploads import Uploads

PER_PIXEL = 16  # bytes
ROOM = 50 * MB
README = Path(__file__).parents[2] / "README.md"


def gif(width: int, height: int) -> bytes:
    data = bytearray(saved(Image.new("P", (16, 16)), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(saved(noise(16, 16), "JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp(width: int, height: int) -> bytes:
    data = bytearray(saved(noise(16, 16), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"))
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


TOO_LARGE = {
    "one column": png(1, 2**27, b""),
    "one row": png(2**27, 1, b""),
    "gif": gif(16384, 8192),
    "jpeg": jpeg(65000, 65000),
    "webp": webp(16000, 16000),
    "ppm": b"P6 20000 20000 255\n",
    "bmp": (
        b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 20000, 20000, 1, 24, *[0] * 6)
    ),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
@pytest.mark.parametrize("decode", [decode_bytes, decode_plain])
def test_too_many_pixels_are_refused_from_the_header_and_the_option_is_named(
    kind: str, decode: Callable[[bytes, str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelens.images.headers.total_memory", lambda: 2**60)

    def call() -> None:
        with pytest.raises(BadInputError, match=rf"photo has \d+x\d+ pixels; .*{MAX_PIXELS}.*--max-pixels \d+"):
            decode(TOO_LARGE[kind], "photo")

    assert Tally(kind).check(call, 10 * MB) == "fine"


def test_the_limit_on_pixels_is_raised_for_a_while(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (10, 30)).save(path)
    with pixel_limit(299):
        with pytest.raises(BadInputError, match=r"a\.png has 10x30 pixels; .* --max-pixels 300\."):
            decode_file(path)
        with pixel_limit(300):
            assert decode_file(path).size == (30, 10)
        with pixel_limit(None):
            assert max_pixels() == 299
    assert max_pixels() == MAX_PIXELS
    with pytest.raises(UsageError, match="at least 1"), pixel_limit(0):
        pass
    with pixel_limit(2**40):  # above Pillow's own limit, whose error can't be raised for one call
        assert read_size_of(png(2**18, 2**18, b""), tmp_path) == (2**18, 2**18)
    with Image.open(path) as opened, pytest.raises(Image.DecompressionBombError):
        opened.crop((0, 0, 2**15, 2**15))  # Pillow's limit is back


def read_size_of(data: bytes, folder: Path) -> tuple[int, int]:
    (folder / "image").write_bytes(data)
    return read_size(folder / "image")


@pytest.mark.parametrize(
    "command", ["reconstruct", "compare", "evaluate", "finetune", "calibrate", "inspect", "replay"]
)
def test_every_command_that_reads_photos_can_allow_more_pixels(command: str) -> None:
    words = invoke(command, "--help").stdout
    assert "--max-pixels" in words
    assert f"about {MAX_PIXELS // 10**6} million" in " ".join(words.replace("│", " ").split())


def test_the_readme_says_how_many_pixels_are_read() -> None:
    assert f"Up to {MAX_PIXELS // 10**6} million pixels are read" in " ".join(README.read_text("utf-8").split())


def test_max_pixels_holds_for_the_command(tmp_path: Path) -> None:
    noise(24, 16).save(tmp_path / "a.png")
    arguments = ("reconstruct", tmp_path / "a.png", "-o", tmp_path / "out.png", "--vae", "tiny-kl-f8")
    assert "--max-pixels 384." in invoke(*arguments, "--max-pixels", 383, code=3).stderr
    invoke(*arguments, "--max-pixels", 384)
    assert max_pixels() == MAX_PIXELS


def large(megapixels: int, form: str, mode: str = "RGB", **options: object) -> bytes:
    return saved(Image.new("RGB", (2**10, megapixels * 2**10), (200, 100, 50)).convert(mode), form, **options)


@pytest.mark.parametrize(
    ("megapixels", "form", "mode", "options"),
    [
        (8, "PNG", "RGB", {}),
        (8, "PNG", "RGBA", {}),
        (4, "PNG", "P", {"transparency": 0}),
        (8, "JPEG", "RGB", {}),
        (2, "JPEG", "RGB", {"progressive": True}),
        (8, "TIFF", "CMYK", {}),
        (4, "BMP", "RGB", {}),
        (2, "GIF", "P", {}),
        (2, "WEBP", "RGB", {"method": 0}),
        (2, "AVIF", "RGB", {"speed": 10}),
        (2, "JPEG2000", "RGB", {}),
    ],
)
def test_memory_follows_the_pixels(megapixels: int, form: str, mode: str, options: dict[str, object]) -> None:
    """Beside the image and what it is decoded to there is no second copy of either."""
    data = large(megapixels, form, mode, **options)
    for decode in (decode_bytes, decode_plain):
        Tally(form).check(lambda decode=decode: decode(data, "a"), PER_PIXEL * megapixels * 2**20 + ROOM)


@pytest.mark.parametrize(("form", "options"), [("JPEG", {"quality": 30}), ("JPEG2000", {"num_resolutions": 6})])
def test_max_side_decodes_at_a_smaller_scale_where_the_format_can(
    tmp_path: Path, form: str, options: dict[str, object]
) -> None:
    """A quarter of what the stored pixels would take, and the same image."""
    smooth = noise(8, 12).resize((1500, 1000), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "photo", form, **options)
    with pixel_limit(2**19):
        assert read_size(tmp_path / "photo", max_side=200) == (1000, 1500)
        with pytest.raises(BadInputError, match="--max-pixels 1500000"):
            decode_file(tmp_path / "photo")
        found = decode_file(tmp_path / "photo", max_side=200)
    assert found.size == (133, 200)
    assert found.notes == ("shrunk from 1500x1000",)
    expected = np.asarray(smooth.resize((200, 133), Image.Resampling.LANCZOS)).transpose(2, 0, 1) / 255
    assert np.abs(found.image[0].numpy() - expected).mean() < 0.01


@pytest.mark.parametrize(
    ("size", "options"),
    [
        *(((1212, 800 + rest), {}) for rest in (1, 2, 3, 5)),
        ((1205, 801), {"tile_size": (150, 150)}),
        ((1200, 800), {"tile_size": (128, 128), "offset": (14, 33), "tile_offset": (0, 0)}),
    ],
)
def test_a_jpeg_2000_of_any_size_and_tiling_is_decoded_smaller(
    tmp_path: Path, size: tuple[int, int], options: dict[str, object]
) -> None:
    smooth = noise(4, 6).resize(size, Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "photo", "JPEG2000", num_resolutions=6, **options)
    found = decode_file(tmp_path / "photo", max_side=140).image[0]
    expected = np.asarray(smooth.resize(found.shape[:0:-1], Image.Resampling.LANCZOS)).transpose(2, 0, 1) / 255
    assert max(found.shape) == 140
    assert np.abs(found.numpy() - expected).mean() < 0.01


def test_a_progressive_jpeg_is_measured_by_its_stored_size(tmp_path: Path) -> None:
    """Its decoder holds every coefficient, however small the image becomes."""
    noise(300, 300).save(tmp_path / "a.jpg", progressive=True)
    with pixel_limit(80_000), pytest.raises(BadInputError, match="300x300"):
        decode_file(tmp_path / "a.jpg", max_side=20)


@pytest.mark.parametrize("size", [(3000, 100), (100, 3000), (2**18 + 5, 1), (1, 3000), (600, 600)])
def test_shrinking_in_strips_is_shrinking(tmp_path: Path, size: tuple[int, int]) -> None:
    image = noise(size[1], size[0])
    image.save(tmp_path / "a.png")
    found = decode_file(tmp_path / "a.png", max_side=100).image[0]
    planes = [Image.fromarray(np.asarray(band, dtype=np.float32) / 255) for band in image.split()]
    expected = [np.asarray(plane.resize(found.shape[:0:-1], Image.Resampling.LANCZOS)) for plane in planes]
    assert max(found.shape) == 100
    assert np.abs(found.numpy() - np.clip(expected, 0, 1)).max() < 1e-6


SLOW = {
    "a ppm comment": b"P6\n#" + b"a" * 5_000_000 + b"\n4 4\n255\n" + bytes(48),
    "ppm comments": b"P6\n" + b"#a\n" * 2_000_000 + b"\n4 4\n255\n" + bytes(48),
    "png chunks": png(4, 4, bytes(52), before=chunk(b"teSt", b"") * 200_000),
    "gif comments": gif(16, 16)[:13] + b"!\xfe" + b"\1a" * 2_000_000 + b"\0" + gif(16, 16)[13:],
    "jpeg fill bytes": b"\xff\xd8" + b"\xff" * 5_000_000 + jpeg(16, 16)[2:],
    "jpeg segments": b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000 + jpeg(16, 16)[2:],
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_header_in_very_many_parts_is_refused_soon(tmp_path: Path, kind: str) -> None:
    (tmp_path / "photo").write_bytes(SLOW[kind])
    start = time.process_time()
    with pytest.raises(BadInputError, match=r"photo: .* small parts"):
        read_size(tmp_path / "photo")
    assert time.process_time() - start < 2


def scan_of(data: bytes) -> bytes:
    """A JPEG with other coded data, which ends in no marker."""
    whole = jpeg(16, 16)
    return whole[: whole.index(b"\xff\xda") + 14] + data


REPETITIVE = {  # the same again and again, so that a search that starts again at each place takes quadratic time
    "comment signs in a ppm": b"P2 100 100 255\n" + b"#" * 300_000,
    "comment signs in a ppm, at its end": b"P2 100 100 255\n" + b"1 " * 9_999 + b"#" * 300_000,
    "comments in a ppm": b"P3 100 100 255\n" + b"#\n" * 400_000,
    "comments in a pbm": b"P1 100 100\n" + b"#\n" * 1_000_000,
    "fill bytes in a jpeg's scan": scan_of(b"\xff" * 30_000 + b"\0"),
    "fill bytes behind a jpeg's scan": scan_of(b"\xff" * 1_000_000 + b"\xd9"),
    "png texts that are left out": png(
        4, 4, bytes(52), before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_200_000))) * 3_000
    ),
    "png texts that aren't text": png(
        4, 4, bytes(52), before=chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"\xff" * 1_000_000)) * 3_000
    ),
}


@pytest.mark.parametrize("kind", REPETITIVE)
def test_repetitive_bytes_are_read_in_linear_time(tmp_path: Path, kind: str) -> None:
    data = REPETITIVE[kind]
    (tmp_path / "photo").write_bytes(data)
    calls: tuple[Callable[[], object], ...] = (
        lambda: decode_bytes(data, "photo"),
        lambda: decode_file(tmp_path / "photo", max_side=2),
        lambda: read_text(tmp_path / "photo"),
    )
    for call in calls:
        Tally(kind).check(call, ROOM + 5 * len(data))


def test_an_upload_with_an_endless_header_is_refused_soon(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path)
    number, part = uploads.begin()
    part.write_bytes(SLOW["a ppm comment"])
    start = time.process_time()
    with pytest.raises(BadInputError, match="small parts"):
        uploads.finish(number, "a.ppm")
    assert time.process_time() - start < 2


def pages(count: int) -> bytes:
    """A TIFF with very many pages of one pixel."""
    out = io.BytesIO(b"II*\0" + struct.pack("<I", 8))
    out.seek(8)
    for page in range(count):
        tags = ((256, 1), (257, 1), (258, 8), (262, 1), (273, 8), (279, 1))
        out.write(struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, v) for tag, v in tags))
        out.write(struct.pack("<I", out.tell() + 4 if page < count - 1 else 0))
    return out.getvalue()


@pytest.mark.parametrize("data", [pages(100_000), gif(16, 16)[:-1] + b",\0\0\0\0\1\0\1\0\0\2\1\0\0" * 300_000 + b";"])
def test_frames_are_counted_for_a_bounded_time(data: bytes) -> None:
    start = time.process_time()
    assert "the first of several frames or pages" in decode_bytes(data, "a").notes
    assert time.process_time() - start < 2
    assert decode_bytes(pages(3), "a").notes == ("the first of 3 frames or pages",)


@pytest.mark.parametrize(("largest", "channels"), [(15, 1), (300, 1), (1023, 3), (65535, 3), (100, 3)])
def test_netpbm_files_with_any_largest_value_are_read_at_once_and_as_pillow_reads_them(
    largest: int, channels: int
) -> None:
    h, w = 7, 5
    values = np.random.default_rng(0).integers(0, largest + 1, (h, w, channels))
    data = b"P%d %d %d %d\n" % (5 if channels == 1 else 6, w, h, largest)
    small = data + values.astype(">u2" if largest > 255 else "u1").tobytes()
    with Image.open(io.BytesIO(small)) as opened:
        expected = np.asarray(opened).reshape(h, w, channels).astype(np.float32)
    white = 65535 if channels == 1 and largest > 255 else 255
    found = decode_bytes(small, "a")
    assert np.allclose(found.image[0].permute(1, 2, 0).numpy(), expected / white, atol=1e-7)
    with pytest.raises(BadInputError, match="incomplete"):
        decode_bytes(small[:-1], "a")
    large = b"P5 1500 1500 300\n" + bytes(2 * 1500 * 1500)
    start = time.process_time()
    decode_bytes(large, "a")
    assert time.process_time() - start < 1.5


@pytest.mark.parametrize(("largest", "channels"), [(15, 1), (300, 1), (255, 3), (1023, 3)])
def test_netpbm_files_in_plain_text_are_read_at_once_and_as_pillow_reads_them(largest: int, channels: int) -> None:
    h, w = 7, 5
    values = np.random.default_rng(0).integers(0, largest + 1, h * w * channels).tolist()
    words = " # a comment\n".join(map(str, values)).encode()
    small = b"P%d # one more\n%d %d %d\n" % (2 if channels == 1 else 3, w, h, largest) + words
    with Image.open(io.BytesIO(small)) as opened:
        expected = np.asarray(opened).reshape(h, w, channels).astype(np.float32)
    white = 65535 if channels == 1 and largest > 255 else 255
    found = decode_bytes(small, "a")
    assert np.allclose(found.image[0].permute(1, 2, 0).numpy(), expected / white, atol=1e-7)
    assert decode_bytes(small + b"\nP2 and another image", "a").image.equal(found.image)
    for last in (b"-12", b"9" * 20, b" 1x", b" 1_0", b" +5", b" 1.", b" \xb2"):  # int() takes some of them
        with pytest.raises(BadInputError, match="damaged or incomplete"):
            decode_bytes(small[:-3] + last, "a")
    with pytest.raises(BadInputError, match="damaged or incomplete"):
        decode_bytes(small[: -len(words) // 2], "a")
    start = time.process_time()
    assert decode_bytes(b"P3 1000 700 255\n" + b"200 " * 2_100_000, "a").image.unique().tolist() == [
        pytest.approx(200 / 255)
    ]
    assert time.process_time() - start < 2


def test_netpbm_bitmaps_in_plain_text_are_read_as_pillow_reads_them() -> None:
    """0 is white; between the digits there may be space, or comments, or nothing."""
    small = b"P1 # one more\n5 3\n10110 # a comment\n0 1#\n1\r00 1111#\r0"
    with Image.open(io.BytesIO(small)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert np.array_equal(decode_plain(small, "a"), expected)
    found = decode_bytes(small, "a")
    assert np.array_equal(found.image[0].permute(1, 2, 0).numpy() * 255, expected)
    assert found.notes == ()
    for damaged in (small[:-1], small[:-1] + b"2", small[:-1] + b"/"):
        with pytest.raises(BadInputError, match="damaged or incomplete"):
            decode_bytes(damaged, "a")

"""Damaged images: incomplete ones are refused whatever their decoder makes of them, damaged metadata costs a note."""

import itertools
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import AvifImagePlugin, Image, ImageCms, Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.PngImagePlugin import PngInfo

from support.images.written_files import chunk, cut_jpeg, noise, png, saved, tiff
from support.properties import MB, Tally
from vaelens.errors import BadInputError, ResourceError
from vaelens.images import headers
from vaelens.images.reading import decode_bytes, decode_file, decode_plain, read_size, read_text

PIXELS = noise(96, 128)


def refused(data: bytes) -> str:
    """The message with which both ways of decoding refuse it."""
    messages: list[str] = []
    for decode in (decode_bytes, decode_plain):
        with pytest.raises(BadInputError) as error:
            decode(data, "photo")
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("photo")
    return messages[0]


def rgb(data: bytes) -> np.ndarray:
    return (decode_bytes(data, "a").image[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize("rows", [0, 32, 95])
def test_a_png_whose_stream_ends_early_is_refused(rows: int, interlace: int) -> None:
    """A stream that is right in itself: Pillow leaves the other rows black."""
    data = b"".join(b"\0" + row.tobytes() for row in np.asarray(PIXELS))
    cut = png(128, 96, data[: rows * (1 + 3 * 128)], interlace=interlace)
    assert "incomplete image" in refused(cut)


@pytest.mark.parametrize("height", [33, 34, 35, 3, 2])
def test_an_interlaced_png_is_complete_with_all_its_passes(height: int) -> None:
    """The seventh pass brings every second row: of an odd number, not the last one."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    values = np.random.default_rng(0).integers(1, 256, (height, 33), dtype=np.uint8)
    parts = [values[top::down, left::right] for left, top, right, down in passes]
    rows = [b"".join(b"\0" + row.tobytes() for row in part if len(row)) for part in parts]
    assert np.array_equal(rgb(png(33, height, b"".join(rows), color=0, interlace=1))[..., 0], values)
    for count in range(7):
        if any(rows[count:]):
            cut = png(33, height, b"".join(rows[:count]), color=0, interlace=1)
            assert "incomplete image" in refused(cut)
    assert "incomplete image" in refused(png(33, height, b"".join(rows)[:-1], color=0, interlace=1))


def test_a_png_that_ends_in_black_rows_is_complete() -> None:
    black = np.asarray(PIXELS).copy()
    black[40:] = 0
    assert np.array_equal(rgb(saved(Image.fromarray(black), "PNG")), black)
    adam7 = bytes(8 * 8)  # any interlaced one: 1 pixel in the first pass
    assert rgb(png(1, 1, b"\0\0\0\0" + adam7, interlace=1)).tolist() == [[[0, 0, 0]]]


JPEGS = {
    "baseline": saved(PIXELS, "JPEG", quality=90),
    "4:4:4": saved(PIXELS, "JPEG", quality=90, subsampling=0),
    "grey": saved(PIXELS.convert("L"), "JPEG", quality=90),
    "cmyk": saved(PIXELS.convert("CMYK"), "JPEG", quality=90),
    "restart markers": saved(PIXELS, "JPEG", quality=90, restart_marker_rows=1),
    "progressive": saved(PIXELS, "JPEG", quality=90, progressive=True),
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.97])
def test_a_jpeg_cut_and_closed_by_an_end_marker_is_refused(kind: str, share: float) -> None:
    """libjpeg fills the rest with grey, and only warns."""
    assert "incomplete image" in refused(cut_jpeg(JPEGS[kind], share))


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_cut_jpeg_is_refused_when_it_is_decoded_smaller(tmp_path: Path, share: float) -> None:
    (tmp_path / "a.jpg").write_bytes(cut_jpeg(saved(noise(800, 600), "JPEG", quality=80), share))
    with pytest.raises(BadInputError, match="incomplete image"):
        decode_file(tmp_path / "a.jpg", max_side=50)


def test_a_progressive_jpeg_without_its_last_scans_is_refused() -> None:
    """Cut between two scans, every scan is complete, and no decoder warns."""
    data = JPEGS["progressive"]
    scans = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    tables = data.rindex(b"\xff\xc4", 0, scans[4])
    assert "incomplete image" in refused(data[:tables] + b"\xff\xd9")


@pytest.mark.parametrize("kind", JPEGS)
def test_a_complete_jpeg_is_read_whatever_stands_around_its_data(kind: str) -> None:
    """Cameras leave bytes before the end marker, and other files behind it; grey corners are images too."""
    data = JPEGS[kind]
    whole = rgb(data)
    assert np.array_equal(rgb(data[:-2] + b"\0\0" + data[-2:]), whole)
    assert np.array_equal(rgb(data + b"\xff\xd8 another one"), whole)
    grey = Image.new("RGB", (40, 40), (128, 128, 128))
    assert np.abs(rgb(saved(grey, "JPEG")).astype(int) - 128).max() <= 1


def test_a_jpeg_strip_of_a_tiff_that_was_cut_is_refused() -> None:
    data = bytearray(saved(PIXELS, "TIFF", compression="jpeg"))
    assert rgb(bytes(data)).shape == (96, 128, 3)
    with Image.open(BytesIO(bytes(data))) as opened:
        start, size = opened.tag_v2[273][0], opened.tag_v2[279][0]
    middle = start + size // 2
    data[middle : middle + 2] = b"\xff\xd9"
    assert "incomplete image" in refused(bytes(data))


@pytest.mark.parametrize(("width", "height"), [(16, 65_000), (65_000, 16), (16, 17)])
def test_a_jpeg_strip_of_a_tiff_that_is_larger_than_the_image_is_refused_before_it_is_decoded(
    width: int, height: int
) -> None:
    """Its size costs memory: a few kilobytes of coded data may stand for any number of equal blocks."""
    strip = saved(Image.new("L", (width, height), 90), "JPEG", quality=5)
    tags = {"t259": [7], "t278": [16]}
    assert rgb(tiff((16, 16), 8, 1, saved(Image.new("L", (16, 16), 90), "JPEG"), **tags)).shape == (16, 16, 3)
    data = tiff((16, 16), 8, 1, strip, **tags)
    assert Tally("strips").check(lambda: refused(data), 5 * MB) == "fine"
    assert "larger than the image" in refused(data)


def test_a_jpeg_tile_of_a_tiff_may_be_larger_than_the_image() -> None:
    tile = saved(Image.new("L", (64, 64), 90), "JPEG")
    data = tiff((16, 16), 8, 1, tile, t259=[7], t322=[64], t323=[64])
    assert np.abs(rgb(data).astype(int) - 90).max() <= 1
    for side in (60_000, 8_192):
        assert "tiles of" in refused(tiff((16, 16), 8, 1, tile, t259=[5], t322=[side], t323=[side]))


OTHERS: list[tuple[str, dict[str, object]]] = [
    ("GIF", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("BMP", {}),
    ("PPM", {}),
    ("JPEG2000", {}),
    ("AVIF", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "packbits"}),
]


@pytest.mark.parametrize(("form", "options"), OTHERS)
def test_truncated_files_of_other_formats_are_refused(form: str, options: dict[str, object]) -> None:
    data = saved(PIXELS, form, **options)
    for share in (0.2, 0.5, 0.9, 0.99):
        refused(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "error", [RuntimeError, SyntaxError, TypeError, KeyError, struct.error, zlib.error, AssertionError]
)
@pytest.mark.parametrize(
    "plugin", [AvifImagePlugin.AvifImageFile, TiffImagePlugin.TiffImageFile, WebPImagePlugin.WebPImageFile]
)
@pytest.mark.parametrize("step", ["_open", "load"])
def test_any_exception_of_a_decoder_is_an_error_that_names_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[Exception], plugin: type, step: str
) -> None:
    def fail(*_: object) -> None:
        raise error("no\nsuch\x1bthing")

    (tmp_path / "photo").write_bytes(saved(PIXELS, plugin.format))
    monkeypatch.setattr(plugin, step, fail)
    for decode in (decode_file, *([read_size, read_text] if step == "_open" else [])):
        with pytest.raises(BadInputError, match=r"photo.*damaged") as caught:
            decode(tmp_path / "photo")
        assert str(caught.value).isprintable()


OUT_OF_MEMORY = (
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
)


@pytest.mark.parametrize(
    ("step", "error"),
    [*itertools.product(("_open", "load", "convert"), OUT_OF_MEMORY), ("getexif", OUT_OF_MEMORY[0])],
)
def test_memory_that_runs_out_is_never_taken_for_damage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str, error: Exception
) -> None:
    """The image may be whole: so it isn't left out as a bad image, and what to do is said."""

    def fail(*_: object, **__: object) -> None:
        raise error

    plugin = WebPImagePlugin.WebPImageFile if step in {"_open", "load"} else Image.Image
    PIXELS.convert("RGBA").save(tmp_path / "photo", "WEBP")
    monkeypatch.setattr(plugin, step, fail)
    with pytest.raises(ResourceError, match=r"photo: not read, out of memory\. .*--max-side"):
        decode_file(tmp_path / "photo")


def test_a_decoder_that_is_short_of_memory_is_so_only_where_the_image_doesnt_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pillow's decoders tell the same of an absurd size in damaged data."""

    def fail(*_: object) -> None:
        raise OSError("out of memory error when reading image file")

    data = saved(PIXELS, "JPEG2000")
    monkeypatch.setattr(Jpeg2KImagePlugin.Jpeg2KImageFile, "load", fail)
    assert "damaged" in refused(data)
    monkeypatch.setattr(headers, "PER_PIXEL", 2**40)  # as if there were little memory
    with pytest.raises(ResourceError, match="--max-side"):
        decode_bytes(data, "photo")


def test_a_length_that_a_header_makes_up_takes_no_memory(tmp_path: Path) -> None:
    """Python takes the memory for what is asked for before it reads."""
    data = chunk(b"iCCP", b"name\0\0" + zlib.compress(SRGB))
    path = tmp_path / "photo"
    path.write_bytes(png(128, 96, PIXEL_ROWS, before=struct.pack(">I", 2**31 - 1) + data[4:]))
    assert Tally("lengths").check(lambda: read_text(path), 20 * MB) in {"fine", "DamagedImageError"}
    with headers.Source(path).stream() as stream:
        assert stream.read(2**60) == path.read_bytes()


def test_a_damaged_tiff_and_avif_are_bad_input(tmp_path: Path) -> None:
    """Each byte of the headers set to 0 and 255: decoders raise errors of many types."""
    for form in ("TIFF", "AVIF"):
        data = saved(PIXELS.crop((0, 0, 16, 16)), form, **({"compression": "tiff_lzw"} if form == "TIFF" else {}))
        places = [*range(8, 300, 3)] if form == "AVIF" else [*range(4, 12), *range(len(data) - 160, len(data), 2)]
        for place in places:
            for value in (0, 255):
                damaged = data[:place] + bytes([value]) + data[place + 1 :]
                for decode in (decode_bytes, decode_plain):
                    try:
                        decode(damaged, "a")
                    except BadInputError as error:
                        assert str(error).startswith("a")  # noqa: PT017 - some are still images


BROKEN_EXIF = (
    b"Exif\0\0junk",
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + struct.pack("<HHII", 0x0112, 2, 4, 0x20202020),
    b"Exif\0\0II%\0\x08\0\0\0\0\0",
    b"",
)


@pytest.mark.parametrize("exif", BROKEN_EXIF)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_data_cost_a_note_not_the_pixels(exif: bytes, form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    plain = decode_bytes(saved(PIXELS, form, **options), "a")
    found = decode_bytes(saved(PIXELS, form, exif=exif or b"Exif\0\0", **options), "a")
    assert found.image.equal(plain.image)
    assert set(found.notes) <= {"damaged EXIF data ignored", "part of its EXIF data is damaged; the rest is used"}
    if exif.startswith((b"Exif\0\0junk", b"Exif\0\0II%", b"Exif\0\0II*\0\xff")):
        assert found.notes == ("damaged EXIF data ignored",)


@pytest.mark.parametrize("text", ["b'Exif\\x00\\x00II*'", "\nexif\n    8\nnot hexadecimal"])
def test_exif_data_that_another_program_wrote_as_text_cost_a_note(text: str) -> None:
    key = "exif" if text.startswith("b'") else "Raw profile type exif"
    info = PngInfo()
    info.add_text(key, text)
    found = decode_bytes(saved(PIXELS, "PNG", pnginfo=info), "a")
    assert found.image.equal(decode_bytes(saved(PIXELS, "PNG"), "a").image)
    assert found.notes == ("damaged EXIF data ignored",)


def test_damaged_exif_data_of_an_avif_cost_a_note() -> None:
    """Pillow reads them when it opens the file."""
    exif = Image.Exif()
    exif[0x010E] = "a description"
    data = saved(PIXELS, "AVIF", exif=exif)
    found = decode_bytes(data.replace(exif.tobytes()[6:10], b"II%\0"), "a")
    assert found.image.equal(decode_bytes(saved(PIXELS, "AVIF"), "a").image)
    assert found.notes == ("damaged or very large metadata ignored",)


def large_text() -> bytes:
    return b"Comment\0\0" + zlib.compress(bytes(2_000_000))


PIXEL_ROWS = b"".join(b"\0" + row.tobytes() for row in np.asarray(PIXELS))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
METADATA = {
    "large text": chunk(b"zTXt", large_text()),
    "large XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2_000_000))),
    "large profile": chunk(b"iCCP", b"name\0\0" + zlib.compress(SRGB + bytes(2_000_000))),
    "unknown compression": chunk(b"iCCP", b"name\0\7" + zlib.compress(SRGB)),
    "wrong checksum": chunk(b"tEXt", b"key\0value")[:-4] + b"\0\0\0\0",
}


@pytest.mark.parametrize("kind", METADATA)
def test_damaged_or_large_metadata_of_a_png_cost_a_note_not_the_pixels(tmp_path: Path, kind: str) -> None:
    info = chunk(b"tEXt", b"Software\0vaelens")
    path = tmp_path / "a.png"
    path.write_bytes(png(128, 96, PIXEL_ROWS, before=info + METADATA[kind]))
    found = decode_file(path)
    assert found.image.equal(decode_bytes(saved(PIXELS, "PNG"), "a").image)
    assert any("ignored" in note for note in found.notes)
    assert read_size(path) == (96, 128)
    assert read_text(path)["Software"] == "vaelens"


def test_damaged_text_behind_the_pixels_costs_a_note_and_leaves_the_other_text(tmp_path: Path) -> None:
    data = saved(PIXELS, "PNG")[:-12] + chunk(b"zTXt", large_text()) + chunk(b"iTXt", b"vaelens\0\0\0\0\0{}")
    (tmp_path / "a.png").write_bytes(data + chunk(b"IEND", b""))
    assert "damaged or very large metadata ignored" in decode_file(tmp_path / "a.png").notes
    assert read_text(tmp_path / "a.png") == {"vaelens": "{}"}


def test_text_of_every_kind_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("latin", "caf\xe9")
    info.add_text("packed", "a" * 500, zip=True)
    info.add_itxt("unicode", "日本", lang="ja", tkey="鍵")
    info.add_itxt("packed unicode", "✓" * 500, zip=True)
    PIXELS.save(tmp_path / "a.png", pnginfo=info)
    with Image.open(tmp_path / "a.png") as opened:
        expected = {key: str(value) for key, value in opened.text.items()}
    assert read_text(tmp_path / "a.png") == expected
    PIXELS.save(tmp_path / "a.jpg")
    assert read_text(tmp_path / "a.jpg") == {}

"""Images from bytes: by the rules for files, and plainly."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaelens.errors import BadInputError
from vaelens.images.reading import decode_bytes, decode_file, decode_plain


def encoded(image: Image.Image, form: str, **how: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **how)
    return out.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
TURNED = Image.Exif()
TURNED[0x0112] = 6


def test_bytes_are_decoded_by_the_rules_for_files(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(PIXELS), "PNG", exif=TURNED)
    (tmp_path / "a.png").write_bytes(data)
    of_file, of_bytes = decode_file(tmp_path / "a.png"), decode_bytes(data, "set/a.png")
    assert of_bytes.path == Path("set/a.png")
    assert of_bytes.notes == of_file.notes == ("turned upright by its EXIF orientation", "alpha laid over white")
    assert of_bytes.image.equal(of_file.image)
    assert of_bytes.size == (9, 6)


def test_decode_plain_is_pillows_conversion_alone() -> None:
    """No orientation, no profile, alpha dropped: as the published script reads."""
    found = decode_plain(encoded(Image.fromarray(PIXELS), "PNG", exif=TURNED, icc_profile=b"broken"), "a.png")
    assert found.dtype == np.uint8
    assert np.array_equal(found, PIXELS[..., :3])
    for data in (
        encoded(Image.fromarray(PIXELS[..., :3]), "JPEG"),
        encoded(Image.fromarray(PIXELS, "CMYK"), "TIFF"),
        encoded(Image.fromarray(PIXELS[..., 0]), "PNG"),
    ):
        assert np.array_equal(decode_plain(data, "a"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    palette = Image.fromarray(PIXELS[..., :3]).quantize(8)
    assert decode_plain(encoded(palette, "PNG", transparency=bytes(8)), "a").shape == (6, 9, 3)


def test_bytes_are_refused_as_files_are(tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)), "PNG")
    wide = encoded(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), "TIFF")
    bomb = whole[:16] + (50_000).to_bytes(4, "big") * 2 + whole[24:29]
    bomb += zlib.crc32(bomb[12:29]).to_bytes(4, "big") + whole[33:]
    for data in (b"", b"<svg/>", b"%PDF-1.7\n", b"some text", whole[: len(whole) // 2], wide, bomb):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(BadInputError) as of_file:
            decode_file(tmp_path / "a.png")
        for decode in (decode_bytes, decode_plain):
            with pytest.raises(BadInputError) as of_bytes:
                decode(data, str(tmp_path / "a.png"))
            assert str(of_bytes.value) == str(of_file.value)

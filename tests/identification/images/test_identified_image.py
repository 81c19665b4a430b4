"""What is said of an image beside its claims and its verdict: contradictions and lossy formats."""

import io
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vaelens.identification.images import identified_image
from vaelens.identification.images.agreement import compare
from vaelens.identification.images.claims import Claim
from vaelens.identification.images.identified_image import IdentifiedImage, identify_images
from vaelens.identification.images.verdict import Verdict
from vaelens.images.formats import tiff
from vaelens.runtime import Runtime
from vaelens.weights.fingerprint import Content, Digests, HalfContent
from vaelens.weights.recorded_contents import RecordedContent, record_content


def test_a_vae_that_was_never_compared_is_no_contradiction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decoder may be the same, as those of SD3 and SD3.5 may."""
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path))
    claim = Claim("a program", "somewhere", vae="sd3.5.safetensors", hash="8f53304a79")
    verdict = Verdict("mine", "", 9, {}, ("SD3",))
    found = IdentifiedImage(Path("a.png"), (claim,), (compare(claim),), verdict=verdict)
    assert found.contradictions == ()
    halves = [HalfContent(Digests(*digits), Digests(*digits)) for digits in ("123", "456")]
    record_content(RecordedContent("sd3.5", "kl", "0" * 64, Content(*halves)))
    (sentence,) = found.contradictions
    assert sentence.startswith("The pixels are mine's (SD3 by its weights), but a program claims VAE sd3.5")


@pytest.mark.parametrize(
    ("form", "options", "lossy"),
    [
        ("JPEG", {}, "A JPEG"),
        ("WEBP", {}, "A lossy WebP image"),
        ("WEBP", {"exif": bytes(10)}, "A lossy WebP image"),
        ("WEBP", {"lossless": True}, None),
        ("WEBP", {"lossless": True, "icc_profile": bytes(2001)}, None),
        ("WEBP", {"lossless": True, "save_all": True, "append_images": [Image.new("RGB", (64, 64))]}, None),
        ("AVIF", {}, "An AVIF image"),
        ("GIF", {}, "A GIF image"),
        ("JPEG2000", {}, "A JPEG 2000 image"),
        ("TIFF", {"compression": "jpeg"}, "A TIFF image in JPEG"),
        ("TIFF", {"compression": "tiff_lzw"}, None),
        ("TIFF", {}, None),
        ("BMP", {}, None),
        ("PNG", {}, None),
    ],
)
def test_a_lossy_format_is_said_to_be_one(
    form: str, options: dict[str, Any], lossy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identified_image, "judge", lambda *_: Verdict(None, "", 0, {}))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "image", form, **options)
    (found,) = identify_images([tmp_path / "image"], ["tiny-ft-ema"], Runtime())
    notes = [note for note in found.notes if "the decoder's pixels" in note]
    assert [note.startswith(lossy) for note in notes] == [True] if lossy else not notes


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["H", "I"])
@pytest.mark.parametrize(("compression", "lossless"), [(1, True), (5, True), (6, False), (7, False)])
def test_the_compression_of_a_tiff(order: str, kind: str, compression: int, lossless: bool) -> None:
    """In either order of bytes, as a value of 16 or of 32 bits."""
    value = struct.pack(order + kind, compression).ljust(4, b"\0")
    entry = struct.pack(f"{order}HHI", 259, {"H": 3, "I": 4}[kind], 1) + value
    width = struct.pack(f"{order}HHIHH", 256, 3, 1, 7, 0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 10) + b"\0\0"
    data = head + struct.pack(f"{order}H", 2) + width + entry
    assert tiff.is_lossless(io.BytesIO(data)) == lossless
    assert not tiff.is_lossless(io.BytesIO(b"\x89PNG" + data))
    for end in range(len(data)):
        tiff.is_lossless(io.BytesIO(data[:end]))

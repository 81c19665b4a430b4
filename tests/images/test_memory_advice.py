"""What the refusal of an image with too many pixels advises, by this machine's memory."""

import sys

import pytest
from PIL import Image

from support.images.written_files import saved
from vaelens.errors import BadInputError
from vaelens.images.reading import decode_bytes


@pytest.mark.parametrize(
    ("form", "options", "advice"),
    [
        ("PNG", {}, "Make a smaller copy of it first."),
        ("WEBP", {}, "Make a smaller copy of it first."),
        ("JPEG", {}, "Shrink it with --max-side 100."),
        ("JPEG", {"progressive": True}, "Make a smaller copy of it first."),
        ("JPEG2000", {"num_resolutions": 6}, "Shrink it with --max-side 100."),
    ],
)
def test_more_pixels_than_memory_can_hold_are_not_offered(
    monkeypatch: pytest.MonkeyPatch, form: str, options: dict[str, object], advice: str
) -> None:
    from vaelens.images import headers

    monkeypatch.setattr(headers, "ADVISED_SIDE", 100)
    monkeypatch.setattr(headers, "LARGE_ENOUGH", 0)
    data = saved(Image.new("RGB", (4000, 40)), form, **options)
    with headers.pixel_limit(20_000):
        for memory, expected in ((16 * 160_000, "--max-pixels 160000."), (16 * 160_000 - 1, advice)):
            monkeypatch.setattr(headers, "total_memory", lambda memory=memory: memory)
            with pytest.raises(BadInputError) as error:
                decode_bytes(data, "photo")
            assert str(error.value).endswith(expected)


def test_the_machine_s_memory_is_known_here() -> None:
    """On Linux; at least what this process has."""
    from vaelens.resources import total_memory

    memory = total_memory()
    if sys.platform == "linux":
        assert memory is not None
    assert memory is None or memory > 2**28


def test_what_no_machine_holds_is_never_offered() -> None:
    header = b"P6 500000000 500000000 255\n"
    with pytest.raises(BadInputError, match="500000000x500000000 pixels") as error:
        decode_bytes(header, "photo")
    assert "--max-pixels" not in str(error.value)
    assert str(error.value).endswith("Make a smaller copy of it first.")

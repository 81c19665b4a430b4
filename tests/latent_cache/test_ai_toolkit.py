"""The files of ai-toolkit: names that its own code gave, and latents as it would load and train on them."""

import random
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from support.latents import content
from support.vaes import NARROW, random_vae
from vaelens.errors import UsageError
from vaelens.images.resizing import placement
from vaelens.latent_cache.cache import LatentCache
from vaelens.latent_cache.formats.ai_toolkit import described, path
from vaelens.latent_cache.formats.originals import Original

Encode = Callable[..., LatentCache]

# From LatentCachingFileItemDTOMixin.get_latent_path of commit 27a03a91, after its setup_buckets with square_crop.
NAMES = [
    ("some/a.png", 80, 40, 32, "sd1", "some/_latent_cache/a_eyUBsBWmF8p3OWS8VuWLBA.safetensors"),
    ("a.png", 40, 80, 32, "sdxl", "_latent_cache/a_WKercksTRXQzGVYd70jlIg.safetensors"),
    ("dog é.webp", 466, 467, 64, "flux1", "_latent_cache/dog é_PcAxBRZ5K2UsBGZ33tMdVw.safetensors"),
    ("b.c.jpg", 1, 1, 1024, "sd3", "_latent_cache/b.c_z4UkK57k2P0x7cKf7FRTag.safetensors"),
]


def read(file: Path) -> torch.Tensor:
    """As the trainer loads it, whatever the metadata say."""
    with safe_open(file, framework="pt") as opened:  # type: ignore[no-untyped-call]
        assert list(opened.keys()) == ["latent"]
        return opened.get_tensor("latent")


@pytest.mark.parametrize(("image", "width", "height", "side", "space", "name"), NAMES)
def test_files_are_called_as_in_the_trainer(
    image: str, width: int, height: int, side: int, space: str, name: str
) -> None:
    assert path(Original(PurePosixPath(image), width, height, side, space)) == PurePosixPath(name)


def test_the_size_is_the_resized_images_in_floating_point() -> None:
    """2817 * (768 / 2817) is a little more than 768 there, so the trainer resizes to a pixel more than it has to."""
    found = described(Original(PurePosixPath("a.png"), 2817, 4734, 768, "sd1"))
    assert [found[name] for name in ("scale_to_width", "scale_to_height", "crop_x", "crop_y")] == [769, 1291, 0, 261]


@pytest.mark.parametrize(
    ("space", "scale", "shift"), [("sd1", 0.18215, 0.0), ("sdxl", 0.13025, 0.0), ("sd3", 1.5, 2.0)]
)
def test_latents_are_scaled_and_shifted(space: str, scale: float, shift: float, encode: Encode, photos: Path) -> None:
    of = random_vae(NARROW, seed=4, space=space, scale=scale, shift=shift)
    cache = encode(of=of, trainer="ai-toolkit", seed=5)
    for image in photos.iterdir():
        with Image.open(image) as opened:
            name = path(Original(PurePosixPath(image.name), *opened.size, 32, space))
        latents = read(cache.path / "ai-toolkit" / name)
        posterior = cache.posterior([image.name])
        assert latents.shape == (4, 4, 4)
        assert latents.dtype == torch.float32
        noise = (latents / scale + shift - posterior.mean[0]) / posterior.std[0]
        assert abs(float(noise.mean())) < 0.6
        assert 0.5 < float(noise.std()) < 1.5
    assert len(list((cache.path / "ai-toolkit" / "_latent_cache").iterdir())) == 14


def test_bytes_follow_the_seed(encode: Encode) -> None:
    one, same, other = (encode(name, trainer="ai-toolkit", seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert content(one.path) == content(same.path)
    files = [content(cache.path / "ai-toolkit") for cache in (one, other)]
    assert files[0].keys() == files[1].keys()
    assert not set(files[0].values()) & set(files[1].values())


def test_an_image_lies_as_it_is_seen(encode: Encode, tmp_path: Path) -> None:
    """The trainer turns images upright before it looks at their size."""
    (tmp_path / "some").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40), "red").save(tmp_path / "some" / "a.jpg", exif=exif)
    cache = encode(images_of=tmp_path / "some", trainer="ai-toolkit")
    assert (cache.path / "ai-toolkit" / path(Original(PurePosixPath("a.jpg"), 40, 80, 32, "sd1"))).is_file()


def test_images_that_the_trainer_does_not_read_have_no_file(encode: Encode, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    for name in ("a.bmp", "b.JPEG", "b.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / "some" / name)
    said: list[str] = []
    cache = encode(images_of=tmp_path / "some", trainer="ai-toolkit", notify=said.append)
    assert [file.name[:2] for file in (cache.path / "ai-toolkit" / "_latent_cache").iterdir()] == ["b_", "b_"]
    assert any("Wrote 2 files" in line and "none for 1 image that ai-toolkit doesn't read" in line for line in said)
    assert any("set resolution: 32, square_crop: true and cache_latents_to_disk: true." in line for line in said)


def test_what_the_trainer_does_not_keep_so_is_refused(encode: Encode, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"latents of SD 1.x, SDXL, SD 3.x and FLUX.1, but random has a space of its"):
        encode(of=random_vae(NARROW, space=None), trainer="ai-toolkit")
    with pytest.raises(UsageError, match="a multiple of 16, not 40"):
        encode(of=random_vae(NARROW, space="flux1"), trainer="ai-toolkit", size=40)
    with pytest.raises(UsageError, match="needs --rule area or bicubic: ai-toolkit turns images upright"):
        encode(trainer="ai-toolkit", rule="opencv")
    with pytest.raises(UsageError, match=r"none of these is called .jpg, .jpeg, .png, .webp: the first is face-"):
        encode(images_of="synthetic", take=2, trainer="ai-toolkit")
    assert not (tmp_path / "latents").exists()


def test_both_show_the_same_part_of_an_image() -> None:
    """The edges of the square that is encoded lie less than one of its pixels from those of the trainer's."""
    rng = random.Random(0)
    for _ in range(20_000):
        side, width, height = rng.choice([64, 512, 1024]), rng.randint(1, 5000), rng.randint(1, 5000)
        found = described(Original(PurePosixPath("a.png"), width, height, side, "sd1"))
        theirs = [int(found[name]) for name in ("crop_x", "crop_y", "scale_to_width", "scale_to_height")]
        bicubic = placement(height, width, side)
        ours = [bicubic.left, bicubic.top, round(bicubic.scale_x * width), round(bicubic.scale_y * height)]
        scale = side / min(width, height)
        area = [(width * scale - side) / 2, (height * scale - side) / 2, width * scale, height * scale]
        for rule in (ours, area):
            ours_and_theirs = zip(_edges(rule, side, width, height), _edges(theirs, side, width, height), strict=True)
            assert max(abs(one - other) for one, other in ours_and_theirs) < 1


def _edges(where: list[float] | list[int], side: int, width: int, height: int) -> list[float]:
    """Left, top, right and bottom of a square in the image, in pixels of the square."""
    left, top, scaled_width, scaled_height = where
    scale = side / min(width, height)
    x, y = width / scaled_width * scale, height / scaled_height * scale
    return [left * x, top * y, (left + side) * x, (top + side) * y]

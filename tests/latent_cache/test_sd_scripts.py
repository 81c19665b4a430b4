"""The files of sd-scripts, read as its documented layout has it: names, arrays, and what the arrays mean."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from support.latents import content
from support.vaes import NARROW, random_vae
from vaelens.errors import UsageError
from vaelens.latent_cache.cache import LatentCache
from vaelens.vae import VAE

Encode = Callable[..., LatentCache]


def read(image: Path, folder: Path, suffix: str) -> tuple[np.ndarray, list[int], list[float]]:
    """As the trainer finds and loads the latents of an image."""
    with Image.open(image) as opened:
        width, height = opened.size
    with np.load(folder / f"{image.stem}_{width:04d}x{height:04d}_{suffix}.npz") as found:
        assert sorted(found) == ["crop_ltrb", "latents", "original_size"]
        assert found["original_size"].tolist() == [width, height]
        return found["latents"], found["original_size"].tolist(), found["crop_ltrb"].tolist()


@pytest.mark.parametrize(("space", "suffix"), [("sd1", "sd"), ("sdxl", "sdxl")])
def test_each_image_has_its_file(space: str, suffix: str, encode: Encode, photos: Path) -> None:
    of = random_vae(NARROW, seed=4, space=space)
    cache = encode(of=of, trainer="sd-scripts", seed=5)
    for path in photos.iterdir():
        latents, _, _ = read(path, cache.path / "sd-scripts", suffix)
        posterior = cache.posterior([path.name])
        assert latents.shape == (4, 4, 4)
        assert latents.dtype == np.float32
        noise = (torch.from_numpy(latents) - posterior.mean[0]) / posterior.std[0]  # raw z: not scaled
        assert 0.5 < float(noise.std()) < 1.5
    assert len(list((cache.path / "sd-scripts").iterdir())) == 14
    assert read(photos / "00.png", cache.path / "sd-scripts", suffix)[2] == [0, 0, 32, 32]


def test_noise_follows_the_seed_and_bytes_do_too(encode: Encode, photos: Path) -> None:
    one, same, other = (encode(name, trainer="sd-scripts", seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert content(one.path) == content(same.path)
    folders = [cache.path / "sd-scripts" for cache in (one, other)]
    first, second = (read(photos / "03.png", folder, "sd")[0] for folder in folders)
    assert not np.array_equal(first, second)


def test_the_place_of_an_oblong_image_in_the_square(encode: Encode, tmp_path: Path) -> None:
    """2:1 in a square of 32 is 32 wide and 16 high, 8 below the top; lying on its side, 8 from the left."""
    (tmp_path / "some" / "deep").mkdir(parents=True)
    Image.new("RGB", (80, 40), "red").save(tmp_path / "some" / "deep" / "wide.png")
    Image.new("RGB", (40, 80), "red").save(tmp_path / "some" / "tall.png")
    folder = encode(images_of=tmp_path / "some", trainer="sd-scripts").path / "sd-scripts"
    assert read(tmp_path / "some" / "deep" / "wide.png", folder / "deep", "sd")[2] == [0, 8, 32, 24]
    assert read(tmp_path / "some" / "tall.png", folder, "sd")[2] == [8, 0, 24, 32]


def test_what_the_trainer_does_not_read_is_refused(encode: Encode, tmp_path: Path, vae: VAE) -> None:
    with pytest.raises(UsageError, match=r"for latents of SD 1.x, 2.x and SDXL, but random has sd3"):
        encode(of=random_vae(NARROW, space="sd3"), trainer="sd-scripts")
    with pytest.raises(UsageError, match="a multiple of 8, not 36"):
        encode(trainer="sd-scripts", size=36)
    with pytest.raises(UsageError, match=r"there is no format 'onetrainer'. Known: sd-scripts"):
        encode(trainer="onetrainer")
    assert not (tmp_path / "latents").exists()
    (tmp_path / "twins").mkdir()
    for name in ("a.png", "a.webp"):
        Image.new("RGB", (40, 40)).save(tmp_path / "twins" / name)
    with pytest.raises(UsageError, match=r"a.png and a.webp would both have a_0040x0040_sd.npz"):
        encode(images_of=tmp_path / "twins", trainer="sd-scripts")

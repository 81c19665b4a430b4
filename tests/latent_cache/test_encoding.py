"""Making a cache: what is stored, the same bytes after an interruption, damage, locks, and what is refused."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from support.latents import FAST, content
from support.vaes import TINY, random_vae
from vaelens.errors import BadInputError, CheckFailedError, ResourceError, UsageError
from vaelens.files import checked_json, read_checked_json
from vaelens.images.crops import Crops, random_square
from vaelens.images.datasets.opening import open_dataset
from vaelens.images.reading import read_image
from vaelens.images.resizing import resize_and_crop
from vaelens.images.writing import to_pixels
from vaelens.latent_cache.cache import LatentCache, open_cache
from vaelens.latent_cache.encoding import encode_dataset
from vaelens.runs.lock import exclusive_run
from vaelens.vae import VAE

Encode = Callable[..., LatentCache]


@pytest.mark.parametrize("rule", ["area", "bicubic", "opencv"])
def test_posteriors_and_squares_are_those_of_the_images(rule: str, encode: Encode, photos: Path, vae: VAE) -> None:
    """Against the functions that training and evaluation call."""
    cache = encode(rule=rule)
    assert cache.ids == tuple(sorted(path.name for path in photos.iterdir()))
    for name in cache.ids:
        pixels = to_pixels(read_image(photos / name))
        if rule == "area":
            square, _ = random_square(pixels, (), Crops(32, (1, 1), 0, 0), np.random.default_rng(7))
        else:
            square = resize_and_crop(pixels, 32, "pillow_bicubic" if rule == "bicubic" else "opencv_bilinear")
        assert np.array_equal(to_pixels(cache.image(name)), square)
        image = torch.as_tensor(square.copy()).permute(2, 0, 1)[None] / 255
        found, wanted = cache.posterior([name]), vae.encode(image).posterior
        assert wanted.mean.abs().max() > 0.1
        for ours, theirs in ((found.mean, wanted.mean), (found.logvar, wanted.logvar)):
            assert ours is not None
            assert theirs is not None
            assert torch.allclose(ours, theirs, rtol=2**-11, atol=2**-14)
            assert torch.equal(ours, ours.half().float())


def test_posteriors_come_in_the_order_asked_for(encode: Encode) -> None:
    cache = encode()
    some = [cache.ids[9], cache.ids[0], cache.ids[5]]
    together = cache.posterior(some)
    assert torch.equal(together.mean, torch.cat([cache.posterior([name]).mean for name in some]))
    assert not torch.equal(together.mean[0], together.mean[1])
    with pytest.raises(UsageError, match="has no image called 'x'"):
        cache.posterior(["x"])


def test_a_network_without_a_posterior_has_means_alone(encode: Encode) -> None:
    cache = encode(of=random_vae(TINY))
    assert cache.index.posterior == "mean"
    assert cache.posterior(cache.ids[:2]).logvar is None


def test_the_dataset_of_a_cache_is_that_of_the_images(encode: Encode, photos: Path) -> None:
    """The same ids and hashes in the same order, so the same images are chosen, held out and seeded."""
    cache, images = encode(), open_dataset(photos)
    assert cache.dataset().items == images.items
    chosen = open_dataset(photos, take=5, seed=3)
    assert cache.dataset(take=5, seed=3).items == chosen.items
    item = images.items[4]
    assert to_pixels(cache.image(item.id)).tobytes() == _decoded(cache.dataset().read(item))


def _decoded(data: bytes) -> bytes:
    from io import BytesIO

    return Image.open(BytesIO(data)).tobytes()


def test_without_images_they_are_read_where_they_were(encode: Encode, photos: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in photos.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    cache = encode("bare", images_of=moved, images=False)
    dataset = cache.dataset()
    assert dataset.read(dataset.items[0]) == (photos / dataset.items[0].id).read_bytes()
    assert sum(path.stat().st_size for path in (cache.path / "shards").iterdir()) < 60_000
    with pytest.raises(UsageError, match="holds no images"):
        cache.image(cache.ids[0])
    (moved / "00.png").write_bytes((photos / "01.png").read_bytes())
    with pytest.raises(CheckFailedError, match=r"00.png has changed since it was encoded .*bare\. Encode the images"):
        dataset.read(dataset.items[0])
    (moved / "00.png").unlink()
    with pytest.raises(BadInputError, match=r"lacks 1 image of it now, the first is 00.png"):
        cache.dataset()


def test_without_images_they_are_found_from_any_folder(
    vae: VAE, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named by a pattern that is relative, or by a dataset's name that a folder here has too."""
    for name in ("there/some", "elsewhere", "there/synthetic"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("00.png", "01.png"):
        (tmp_path / "there" / "some" / name).write_bytes((photos / name).read_bytes())
    monkeypatch.chdir(tmp_path / "there")
    for source in ("some/*.png", "some", "synthetic"):
        folder = tmp_path / source.replace("/*", "-")
        cache = encode_dataset(vae, source, output=folder, images=False, take=2, **FAST)
        assert cache is not None
        monkeypatch.chdir(tmp_path / "elsewhere")
        opened = open_cache(folder).dataset()
        assert len([opened.read(item) for item in opened.items]) == 2
        monkeypatch.chdir(tmp_path / "there")


class Stop(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("at", [0, 5, 12])
def test_an_interrupted_run_resumes_to_the_same_bytes(at: int, encode: Encode, tmp_path: Path) -> None:
    def stop(done: int, _total: int, _what: str) -> None:
        if done >= at and not (_what == "reading images"):
            raise Stop

    whole = content(encode("whole").path)
    assert sorted(whole) == ["cache.json", "plan.json", *(f"shards/00000{n}.safetensors" for n in range(4))]
    with pytest.raises(Stop):
        encode("again", progress=stop)
    there = len(list((tmp_path / "again" / "shards").glob("*"))) if at > 3 else 0
    assert there == at // 4
    if there:
        with pytest.raises(BadInputError, match=r"isn't finished. Run its `vaelens encode` command again"):
            open_cache(tmp_path / "again")
    notices: list[str] = []
    assert content(encode("again", notify=notices.append).path) == whole
    assert bool(there) == any("Resuming:" in notice for notice in notices)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "again" / "shards").iterdir()}
    assert content(encode("again").path) == whole
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "again" / "shards").iterdir()}


def test_a_cache_goes_on_with_another_vae_of_the_same_encoder(
    encode: Encode, vae: VAE, other_decoder: VAE, stranger: VAE
) -> None:
    whole = content(encode().path)
    assert content(encode(of=other_decoder).path) == whole
    with pytest.raises(UsageError, match=r"holds a run with other settings: encoder\.fingerprint"):
        encode(of=stranger)


def test_a_flipped_bit_is_noticed_and_made_again(encode: Encode) -> None:
    cache = encode()
    whole = content(cache.path)
    shard = cache.path / "shards" / "000001.safetensors"
    for place in (9, 700, shard.stat().st_size - 1):  # in the header, in the moments, in the images
        before = shard.read_bytes()
        damaged = bytearray(before)
        damaged[place] ^= 1
        shard.write_bytes(damaged)
        with pytest.raises(
            CheckFailedError, match=r"000001.safetensors has changed.*encode` command again.*into another folder"
        ):
            open_cache(cache.path).verify()
        notices: list[str] = []
        assert content(encode(notify=notices.append).path) == whole
        assert any("damaged or of another cache: 000001.safetensors." in notice for notice in notices)
    shard.unlink()
    with pytest.raises(BadInputError, match=r"000001.safetensors is missing"):
        open_cache(cache.path)


def test_shards_of_another_cache_are_noticed(encode: Encode) -> None:
    """Each is whole by itself."""
    cache, other = encode(), encode("other", rule="bicubic")
    shard = "shards/000002.safetensors"
    (cache.path / shard).write_bytes((other.path / shard).read_bytes())
    with pytest.raises(CheckFailedError, match=r"000002.safetensors has changed"):
        open_cache(cache.path).posterior(cache.ids[8:9])


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("finished", [True, False])
def test_a_whole_shard_of_another_cache_or_place_is_made_again(number: int, finished: bool, encode: Encode) -> None:
    """By the command that the error above names; a shard that was copied by hand may come from anywhere."""
    cache, other = encode(), encode("other", rule="bicubic")
    whole = content(cache.path)
    origin = (other if number == 2 else cache).path / "shards" / "000002.safetensors"
    (cache.path / "shards" / f"{number:06d}.safetensors").write_bytes(origin.read_bytes())
    if not finished:
        (cache.path / "cache.json").unlink()
    notices: list[str] = []
    assert content(encode(notify=notices.append).path) == whole
    assert any(f"of another cache: 00000{number}.safetensors." in notice for notice in notices)


def test_a_changed_index_is_noticed(encode: Encode) -> None:
    file = encode().path / "cache.json"
    before = file.read_bytes()
    file.write_bytes(before.replace(b'"side": 32', b'"side": 64'))
    with pytest.raises(CheckFailedError, match="its checksum is wrong"):
        open_cache(file.parent)
    held = read_checked_json(before)
    file.write_bytes(checked_json(held | {"schema": 9}))
    with pytest.raises(BadInputError, match="has schema 9, but this version reads schema 1"):
        open_cache(file.parent)
    file.write_bytes(checked_json(held | {"latent": "all"}))
    with pytest.raises(BadInputError, match="isn't a cache's index: latent is wrong"):
        open_cache(file.parent)


def test_unreadable_images_end_the_run_or_are_left_out(encode: Encode, photos: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"
    some.mkdir()
    for name in ("00.png", "01.png", "02.png", "03.png", "04.png"):
        (some / name).write_bytes((photos / name).read_bytes())
    (some / "02.png").write_bytes((photos / "02.png").read_bytes()[:300])
    with pytest.raises(BadInputError, match=r"02.png.*--skip-bad leaves such images out"):
        encode(images_of=some)
    cache = encode(images_of=some, skip_bad=True)
    assert cache.ids == ("00.png", "01.png", "03.png", "04.png")
    assert list(cache.index.dataset.skipped) == ["02.png"]
    assert str(tmp_path) not in json.dumps(cache.index.dataset.skipped)
    assert torch.equal(
        cache.posterior(["04.png"]).mean, encode("x", images_of=some, skip_bad=True).posterior(["04.png"]).mean
    )
    with pytest.raises(BadInputError, match="1 of the images can't be read"):
        encode(images_of=some)


def test_two_processes_can_not_write_one_cache(encode: Encode, tmp_path: Path) -> None:
    with (
        exclusive_run(tmp_path / "latents", 0),
        pytest.raises(UsageError, match="another run is using this folder"),
    ):
        encode()


def test_a_full_disk_leaves_whole_shards_and_resumes(
    encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(encode("whole").path)
    import vaelens.latent_cache.encoding as module

    write = module.write_atomic

    def full(path: Path, data: bytes) -> Path:
        if path.name == "000002.safetensors":

            def fill(file: Any) -> None:
                file.write(data[:100])
                raise OSError(errno.ENOSPC, "No space left on device")

            return write(path, fill)
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_atomic", full)
        with pytest.raises(ResourceError, match=r"000002.safetensors: not written, the disk is full"):
            encode("again")
    assert sorted(content(tmp_path / "again")) == [
        "plan.json",
        "shards/000000.safetensors",
        "shards/000001.safetensors",
    ]
    assert content(encode("again").path) == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 64}, "rule.side was 32, now 64"),
        ({"rule": "bicubic"}, "rule.resize"),
        (
            {"take": 5},
            "the number of images was 14, now 5. Resume it with the same settings and images, or choose another folder "
            "with -o, or delete ",
        ),
        ({"shard_size": 8}, "shard_size was 4, now 8"),
        ({"images": False}, "holds_images was true, now false"),
        ({"rule": "lanczos"}, "there is no size rule 'lanczos'. Known: area, bicubic, opencv"),
        ({"rule": "bicubi"}, "Did you mean bicubic?"),
        ({"size": 0}, "a side of 1 pixel or more, not 0"),
        ({"shard_size": 0}, "must be at least 1"),
    ],
)
def test_other_settings_are_refused(options: dict[str, Any], message: str, encode: Encode) -> None:
    encode()
    with pytest.raises(UsageError) as refused:
        encode(**options)
    assert message in str(refused.value)


def test_what_is_not_ours_is_not_replaced(encode: Encode, tmp_path: Path) -> None:
    (tmp_path / "latents" / "shards").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"latents isn't empty and holds no cache, but shards\. Choose another"):
        encode()
    with pytest.raises(UsageError, match="is itself an input"):
        encode(images_of=tmp_path / "latents")
    with pytest.raises(UsageError, match=r"is a latent cache itself. Name the images"):
        encode("second", images_of=encode("first").path)


def test_a_failure_before_any_shard_leaves_nothing(encode: Encode, tmp_path: Path, vae: VAE) -> None:
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n not one")
    with pytest.raises(BadInputError):
        encode(images_of=tmp_path / "no")
    assert not (tmp_path / "latents").exists()


def test_z_beyond_16_bits_is_refused(encode: Encode, tmp_path: Path) -> None:
    broken = random_vae(seed=5)
    with torch.no_grad():
        broken.network.quant_conv.weight.mul_(1e6)
    with pytest.raises(CheckFailedError, match=r"z reaches .* in the images from 00.png to 01.png, beyond the range"):
        encode(of=broken)
    assert not (tmp_path / "latents").exists()


def test_an_open_dataset_without_images_has_no_name(vae: VAE, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be opened again by name"):
        encode_dataset(vae, open_dataset(photos), output=tmp_path / "x", images=False, **FAST)

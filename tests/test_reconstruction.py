"""Photos through VAEs: scores, what is written, and what is refused before any work."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vaelens as vl
from support.comparisons import face_photo
from support.vaes import random_vae
from vaelens.decoding import decode
from vaelens.errors import ResourceError, UsageError
from vaelens.images.writing import to_pixels
from vaelens.vae import VAE


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return face_photo(tmp_path / "photo.png", 96, 90)


def test_images_leave_a_device_as_bytes(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it is the copy that takes time."""
    copied, own, vae = set[torch.dtype](), torch.Tensor.cpu, random_vae()

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() > 10_000:
            copied.add(tensor.dtype)
        return own(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    vl.reconstruct(photo, [vae], device="cpu")
    assert copied == {torch.uint8}
    copied.clear()
    decode(vae, torch.zeros(1, 4, 8, 8))
    assert copied == {torch.uint8}


def test_it_gives_the_vaes_own_pixels_and_their_scores(photo: Path, tmp_path: Path) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    done = vl.reconstruct(photo, posterior="sample", seed=0, device="cpu")
    (image,) = (path for path in done.save(tmp_path / "out") if path.name.endswith("tiny-kl-f8.png"))
    written = np.asarray(Image.open(image))
    expected = vl.load("tiny-kl-f8", device="cpu").reconstruct(vl.read_image(photo), seed=0)
    assert np.array_equal(written, to_pixels(expected))
    row = json.loads((tmp_path / "out" / "run.json").read_text())["rows"][0]
    assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(np.asarray(Image.open(photo)), written), abs=1e-5)
    mode, again = (vl.reconstruct([photo], device="cpu") for _ in range(2))
    assert not np.array_equal(mode.rows[0].pixels, to_pixels(expected))
    assert mode.rows[0].latents_sha256 == again.rows[0].latents_sha256
    strips = [one.save(tmp_path / f"{i}.png")[0].read_bytes() for i, one in enumerate((mode, again))]
    assert strips[0] == strips[1]


def test_foreign_files_are_never_overwritten(photo: Path) -> None:
    before = photo.read_bytes()
    done = vl.reconstruct(photo, device="cpu")
    with pytest.raises(UsageError, match="would be lost"):
        done.save(photo)
    with pytest.raises(UsageError, match=r"\.png strip, an \.html page or a folder"):
        done.save(photo.with_name("faces.jpg"))
    assert photo.read_bytes() == before
    assert list(photo.parent.iterdir()) == [photo]
    mine = photo.with_name("web")
    mine.mkdir()
    (mine / "index.html").write_text("mine")
    (mine / "run.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=r"run.json, .*index\.html were not made by vaelens.* would be lost"):
        done.save(mine)
    assert (mine / "index.html").read_text() == "mine"
    for _ in range(2):  # its own folder may be written again
        done.save(photo.with_name("again"))
    written = done.save(photo.with_name("results.v2"))  # a folder's name may have a dot
    assert written[0] == photo.with_name("results.v2") / "index.html"


def test_everything_cheap_is_checked_first(photo: Path) -> None:
    def progress(done: int, total: int, what: str) -> None:
        raise AssertionError(what)

    for arguments, options, message in (
        (([photo], ["tiny-kl-f8", "ft-mes"]), {}, "Did you mean ft-mse"),
        (([photo],), {"max_side": 0}, "at least 1 pixel"),
        (([photo],), {"seed": 2**70}, "a seed lies between"),
        (([photo], []), {}, "no VAE named"),
        (([],), {}, "no photo named"),
    ):
        with pytest.raises(UsageError, match=message):
            vl.reconstruct(*arguments, **options, progress=progress)  # type: ignore[arg-type]


def test_a_budget_is_checked_for_all_photos_before_the_first_one_runs(
    tmp_path: Path, vae: VAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    Image.new("RGB", (16, 16)).save(small)
    Image.new("RGB", (640, 400)).save(large)
    plan = vae.engine.plan("encode", (400, 640))
    assert plan is not None
    monkeypatch.setattr(VAE, "encode", lambda *_: pytest.fail("a photo is encoded"))
    for run in (vl.reconstruct, lambda photos, vaes, **options: vl.compare(photos=photos, vaes=vaes, **options)):
        with pytest.raises(UsageError, match=r"large\.png: encoding 640x400 pixels needs at least"):
            run([small, large], [vae.within(plan.smallest - 10**6)], device="cpu")


def test_progress_is_reported_within_an_image(photo: Path, vae: VAE) -> None:
    heard: list[tuple[int, int, str]] = []
    vl.reconstruct(photo, [vae, vae], device="cpu", max_side=40, progress=lambda *step: heard.append(step))
    assert heard[0] == (0, 2, f"{photo.name}, {vae.name}")
    assert heard[1] == (0, 2, f"{photo.name}, {vae.name}, encoding 0 %")
    assert (1, 2, f"{photo.name}, {vae.name} (2), decoding 0 %") in heard


def test_images_of_vaes_with_one_name_are_kept_apart(photo: Path, vae: VAE, tmp_path: Path) -> None:
    other = random_vae(seed=1)
    done = vl.reconstruct(photo, [vae, other, vae.save(tmp_path / "random.safetensors")], device="cpu", max_side=40)
    assert done.vaes == ["random", "random (2)", f"{tmp_path.name}/random"]
    written = done.save(tmp_path / "out")
    assert len({p.name for p in written}) == len(written) == 6
    hashes = [row.latents_sha256 for row in done.rows]
    assert hashes[0] == hashes[2] != hashes[1]
    assert done.photos[0].size == (38, 40)


def test_a_perfect_reconstruction_gives_strict_json(photo: Path, tmp_path: Path) -> None:
    done = vl.reconstruct(photo, device="cpu")
    rows = tuple(replace(row, psnr=float("inf")) for row in done.rows)
    record = done.record | {"rows": [{"psnr": float("inf")}]}
    replace(done, rows=rows, record=record).save(tmp_path / "out.html")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (tmp_path / "out.run.json").read_text()
    assert json.loads(text, parse_constant=refuse)["rows"] == [{"psnr": None}]


def test_out_of_memory_is_a_resource_error(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = random_vae()

    def exhausted(_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(vae.network.decoder, "forward", exhausted)
    with pytest.raises(ResourceError, match=r"out of memory on cpu with 96x90 pixels .*random.*--max-side"):
        vl.reconstruct(photo, vae)
    monkeypatch.setattr(vae.network.decoder, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        vl.reconstruct(photo, vae)


def test_a_large_photo_is_announced(tmp_path: Path) -> None:
    Image.new("1", (2100, 2000)).save(tmp_path / "large.png")
    notices: list[str] = []
    with pytest.raises(ZeroDivisionError):
        vl.reconstruct(tmp_path / "large.png", device="cpu", notify=notices.append, progress=lambda *_: 1 / 0)
    assert len(notices) == 1
    assert "large.png has 4 megapixels" in notices[0]

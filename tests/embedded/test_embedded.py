"""The embedded VAEs: small, in a latent space of their own, and better than bicubic upsampling."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

import vaelens as vl
from vaelens.images.faces import draw_face
from vaelens.images.writing import from_uint8
from vaelens.weights.reading import read_vae
from vaelens.weights.registry import embedded_paths, registry

TRIO = ["tiny-kl-f8", "tiny-ft-ema", "tiny-ft-mse"]


@pytest.mark.slow
def test_each_vae_beats_bicubic_by_1_db_on_every_held_out_photo(
    script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    check = script("check")
    photos = check.held_out().items()
    found = {name: check.scores(vl.load(name, device="cpu").reconstruct, photos) for name in TRIO}
    assert list(found[TRIO[0]]) == ["astronaut-256", "astronaut-512", "chelsea-256"]
    for photo in found[TRIO[0]]:
        gains = {name: found[name][photo][0] - found[name][photo][1] for name in TRIO}
        with capsys.disabled():
            print(f"\n{photo} over bicubic, dB: " + ", ".join(f"{n} {g:+.2f}" for n, g in gains.items()), end="")
        assert min(gains.values()) > 1, photo


def test_the_trio_is_one_encoder_with_three_decoders() -> None:
    assert registry().embedded() == TRIO
    fingerprints = [vl.load(name, device="cpu").fingerprint for name in TRIO]
    assert len({one.encoder.stored for one in fingerprints}) == 1
    assert len({one.decoder.stored for one in fingerprints}) == 3
    assert {registry().find(name).space for name in TRIO} == {"tiny"}


def test_the_trio_is_small() -> None:
    files = {path for name in TRIO for path in embedded_paths(registry().find(name))}
    assert len(files) == 4
    assert sum(path.stat().st_size for path in files) <= 6_000_000


@pytest.mark.parametrize("name", TRIO)
def test_metadata_has_the_command_and_the_recipe(name: str) -> None:
    path, *rest = embedded_paths(registry().find(name))
    weights = read_vae(path, name=name, other_files=rest)
    assert weights.spec.latent_space == "tiny"
    assert {t.dtype for t in weights.tensors.values()} == {torch.float16}
    assert weights.metadata["command"].startswith(f"embedded/trio.py train {name} --seed 0 ")
    assert len(weights.metadata["recipe_sha256"]) == 64


def test_the_scaling_factor_gives_latents_about_unit_standard_deviation() -> None:
    """On faces of other seeds than those of the training images, from which it was computed."""
    vae = vl.load("tiny-kl-f8", device="cpu")
    faces = [torch.tensor(draw_face(seed).pixels).permute(2, 0, 1)[None] for seed in range(9000, 9006)]
    latents = torch.cat([vae.encode(from_uint8(face)).mode() for face in faces])
    assert 0.6 < latents.std() < 1.6

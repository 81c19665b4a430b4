"""The embedded VAE: small, in a latent space of its own, and better than enlarging a small picture."""

import importlib.util
from pathlib import Path

import pytest
import torch

import vaelens as vl
from vaelens.images.faces import draw_face
from vaelens.images.writing import from_uint8
from vaelens.weights.registry import embedded_paths, registry

CHECK = Path(__file__).parent.parent / "embedded" / "check.py"


def test_it_beats_bicubic_on_each_held_out_photograph(capsys: pytest.CaptureFixture[str]) -> None:
    loader = importlib.util.spec_from_file_location("check", CHECK)
    assert loader is not None
    assert loader.loader is not None
    check = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(check)
    found = check.scores(vl.load("tiny-kl-f8", device="cpu").reconstruct, check.held_out().items())
    assert list(found) == ["astronaut-256", "astronaut-512", "chelsea-256"]
    with capsys.disabled():
        for name, (vae, bicubic) in found.items():
            print(f"\n{name}: tiny-kl-f8 {vae:.2f} dB, bicubic {bicubic:.2f} dB", end="")
    for name, (vae, bicubic) in found.items():
        assert vae > bicubic + 1, name


def test_it_is_small_and_says_how_it_was_made() -> None:
    from vaelens.weights.reading import read_vae

    (path,) = embedded_paths(registry().find("tiny-kl-f8"))
    assert path.stat().st_size <= 3_000_000
    weights = read_vae(path, name="tiny-kl-f8")
    assert weights.spec.latent_space == "tiny"
    assert {t.dtype for t in weights.tensors.values()} == {torch.float16}
    assert weights.metadata["command"].startswith("embedded/train.py --steps")


def test_its_scale_gives_latents_unit_spread() -> None:
    """On drawn faces of unseen seeds; the scale was measured on the training pictures."""
    vae = vl.load("tiny-kl-f8", device="cpu")
    faces = [torch.tensor(draw_face(seed).pixels).permute(2, 0, 1)[None] for seed in range(9000, 9006)]
    latents = torch.cat([vae.encode(from_uint8(face)).mode() for face in faces])
    assert 0.6 < latents.std() < 1.6

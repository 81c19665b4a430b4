"""Everything that runs a VAE reaches the engine, through the one module that calls it."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vaelens as vl
from support import small_run
from support.browser.served import Served
from support.training import SHORT_RUN, SIX_STEPS, folder, small_presets
from support.vaes import random_vae
from vaelens.comparison.workflow import compare
from vaelens.engine import autoencoder
from vaelens.evaluation.run import evaluate
from vaelens.finetuning.training import finetune
from vaelens.latents import Latent, latents_bytes
from vaelens.reconstruction import reconstruct

SOURCE = Path(vl.__file__).parent
CALLER = Path("engine/calls.py")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of the engine, in order."""
    seen = list[str]()
    for name in ("encode", "decode"):
        own = getattr(autoencoder, name)

        def counted(*args: Any, name: str = name, own: Any = own, **options: Any) -> Tensor:
            seen.append(name)
            return own(*args, **options)

        monkeypatch.setattr(autoencoder, name, counted)
    return seen


def test_one_module_calls_the_engine() -> None:
    found = set[Path]()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{one.name}" for one in node.names} | {str(node.module)}
            elif isinstance(node, ast.Import):
                names = {one.name for one in node.names}
            else:
                continue
            if names & {"vaelens.engine.autoencoder", "vaelens.engine.decode", "vaelens.engine.encode"}:
                found.add(file.relative_to(SOURCE))
    assert found - {Path("engine/__init__.py")} == {CALLER}


def test_compare(calls: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(latents_bytes(Latent(torch.zeros(1, 4, 2, 2), "sd1")))
    compare(vaes=[random_vae()], latents=tmp_path / "a.safetensors")
    assert calls == ["decode"]


def test_reconstruct(calls: list[str], tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", 2, side=16)
    reconstruct([photos], [random_vae()])
    assert calls == ["encode", "decode"] * 2


def test_evaluate(calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_run.patch_small_runs(monkeypatch, tmp_path)
    monkeypatch.setenv("VAELENS_KERNELS", "torch")  # where an evaluation pins plans
    vae = random_vae()
    evaluate([vae], folder(tmp_path / "photos", 4, side=64), output=tmp_path / "run", **small_run.FAST)
    assert calls == ["encode", "decode"] * 2  # 4 images in batches of 2
    assert (vae.engine.pinned, vae.engine.plans) == ({}, {})  # the caller's VAE stays as it was


def test_the_validation_of_finetune(calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_run.patch_small_runs(monkeypatch, tmp_path)
    vae = random_vae(small_run.SMALL).save(tmp_path / "narrow.safetensors")
    with small_presets():
        seen = list[tuple[int, int]]()
        finetune(
            vae,
            folder(tmp_path / "photos", 12, side=44),
            recipe="tiny-ft-mse",
            overrides=SHORT_RUN | SIX_STEPS,
            output=tmp_path / "run",
            on_log=lambda step, _, values: seen.append((step, len(calls))),
        )
    assert calls.count("decode") >= 8  # before the first step and after the last, of both weights
    assert seen[0][1] > 0


def test_serve(calls: list[str], server: Served) -> None:
    server.wait(server.start(seeds=[3], size="64x64"))
    assert calls == ["decode"] * 3  # the first of two VAEs once more, unmeasured


def test_as_diffusers_and_speed_up(calls: list[str]) -> None:
    model = vl.as_diffusers(random_vae())
    with torch.no_grad():
        model.decode(torch.zeros(1, 4, 2, 2))
        assert calls == []
        vl.speed_up(model).decode(torch.zeros(1, 4, 2, 2))
    assert calls == ["decode"]

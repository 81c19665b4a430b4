"""VAEs whose card was tuned: whole maps where they fit, else plans. On the CPU, which is told to run as a GPU does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vaelens.engine.gpu import whole_network
from vaelens.engine.gpu.ways import Way
from vaelens.report.record import vae_record
from vaelens.vae import VAE

IMAGE = torch.rand(2, 3, 40, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def tuned(vae: VAE) -> VAE:
    vae.engine.way_of = lambda *_: Way()
    return vae


def test_whole_maps_are_used(tuned: VAE) -> None:
    again = tuned.reconstruct(IMAGE)
    assert tuned.engine.path == "gpu"
    assert (tuned.engine.plans, vae_record(tuned)["engine"]["path"]) == ({}, "gpu")
    tuned.engine.way_of = lambda *_: None
    assert tuned.engine.path != "gpu"
    assert (tuned.reconstruct(IMAGE) - again).abs().max() < 1e-4


def test_the_verdict_is_asked_for_the_network_s_device_and_dtype(vae: VAE) -> None:
    asked = list[Any]()
    half = vae.to(torch.bfloat16)
    half.engine.way_of = lambda *about: asked.append(about[:2])
    half.decode(torch.zeros(1, 4, 2, 2))
    assert set(asked) == {(torch.device("cpu"), torch.bfloat16)}


@pytest.mark.parametrize("whose", ["call", "VAE"])
def test_a_budget_that_whole_maps_break_takes_plans(tuned: VAE, whose: str) -> None:
    """They count 256 MB for cuDNN."""
    if whose == "VAE":
        tuned.engine.max_memory = 10**8
    tuned.decode(torch.zeros(1, 4, 4, 6), max_memory=10**8 if whose == "call" else None)
    assert list(tuned.engine.plans) == [("decode", (4, 6))]
    record = vae_record(tuned)["engine"]
    assert (record["path"], record["planned"]) == ("gpu", ["decode 6x4"])


def test_memory_that_runs_out_takes_plans_and_says_so(tuned: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, said = tuned.decode(torch.ones(1, 4, 4, 6)), list[str]()
    tuned.engine.notify = said.append

    def fails(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(whole_network.WholeMaps, "run", fails)
    assert (tuned.decode(torch.ones(1, 4, 4, 6)) - wanted).abs().max() < 1e-4
    assert said == ["Memory ran out while decoding 4x6 as a whole. It begins again within a plan."]


def test_a_network_with_something_added_runs_as_it_is(tuned: VAE) -> None:
    seen = list[str]()
    tuned.network.decoder.conv_out.register_forward_hook(lambda *_: seen.append("decoded"))
    tuned.decode(torch.zeros(1, 4, 2, 2))
    assert (seen, tuned.engine.path) == (["decoded"], "plain")


def test_no_verdict_is_read_on_the_cpu(vae: VAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path))
    (tmp_path / "gpu-verdicts.json").write_text("damaged")
    vae.engine.notify = pytest.fail
    vae.decode(torch.zeros(1, 4, 2, 2))

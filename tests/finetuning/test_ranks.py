"""Two processes train as one does: the same gradients of one global batch; either goes on where the other stopped."""

import json
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.training import (  # noqa: F401
    CHANGED,
    SCRIPT,
    begin,
    folder,
    found,
    gradients,
    judged,
    small_presets,
    state,
    step,
    torchrun,
    train,
    wanted,
)
from support.vaes import random_vae
from vaelens.finetuning.running import Interrupted

RANKS = """
import os, sys
sys.path.insert(0, {tests!r})
from safetensors.torch import save_file
from support.training import batch
from support import training as here
from vaelens.runs.ranks import join_ranks
place = join_ranks("cpu")
for form in ("sum", "mean"):
    wanted = here.wanted(form)
    trained = here.begin(wanted)
    start = place.number * 2
    log = here.step(trained, wanted, batch(2, start), ranks=2)
    if place.number == 0:
        save_file(here.found(trained, log), os.path.join({folder!r}, form))
"""


def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path)))
    torchrun(script)
    for form in ("sum", "mean"):
        alone = begin(wanted(form))
        log = step(alone, wanted(form))
        one, two = found(alone, log), load_file(tmp_path / form)
        assert set(one) == set(two)
        assert sum(name.startswith("judge.") for name in one) > 4
        for name, tensor in one.items():
            if name.startswith("after."):  # Adam makes a whole step of what is 0 but for rounding (to_k.bias)
                continue
            torch.testing.assert_close(two[name], tensor, rtol=1e-9, atol=1e-12)
        alike = [n for n in one if n.startswith("after.") and torch.allclose(one[n], two[n], rtol=1e-7, atol=1e-9)]
        assert len(alike) > 0.9 * sum(n.startswith("after.") for n in one)


@pytest.fixture(scope="module", autouse=True)
def _presets() -> Generator[None]:
    with small_presets():
        yield


@pytest.mark.slow
def test_one_process_stops_and_two_go_on(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", 14, side=44)
    vae, run, asked = random_vae().save(tmp_path / "narrow.safetensors"), tmp_path / "run", []
    with pytest.raises(Interrupted):
        train(vae, photos, run, should_stop=lambda: asked.append(0) or len(asked) == 10)  # type: ignore[func-returns-value]
    train(vae, photos, tmp_path / "whole")
    names = {"tests": str(Path(__file__).parents[1]), "vae": str(vae), "photos": str(photos), "output": str(run)}
    script = tmp_path / "go_on.py"
    script.write_text(SCRIPT.format(**names, changed=CHANGED, kill_at=0))  # type: ignore[str-format]
    torchrun(script)
    one, two = (
        [json.loads(line) for line in (where / "log.jsonl").read_text().splitlines()]
        for where in (tmp_path / "whole", run)
    )
    assert [line["update"] for line in two] == list(range(1, 21))
    assert two[:10] == one[:10]
    assert two[10] == pytest.approx(one[10], rel=1e-4)
    assert two[-1]["loss"] == pytest.approx(one[-1]["loss"], rel=0.02)
    record = json.loads((run / "run.json").read_text())
    assert (record["ranks"], record["updates"], record["settings"]["at_once"]) == (2, 20, 4)
    looks = (run / "evaluations.jsonl").read_text().splitlines()
    assert len(looks) == 6
    assert (run / "README.md").exists()

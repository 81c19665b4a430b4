"""Two processes train as one does: the same gradients of one batch; either resumes the other; both end together."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from support.training import (
    NO_GAN,
    SHORT_RUN,
    SMALL_CONFIG,
    first_step,
    folder,
    json_lines,
    stop_after,
    torchrun,
    train,
    train_script,
    two_process_recipe,
)
from support.vaes import random_vae
from vaelens.files import CHECKSUM
from vaelens.finetuning.training import Interrupted

pytestmark = pytest.mark.slow

TESTS = str(Path(__file__).parents[1])
TWO_PROCESSES = """
import json, sys
from datetime import timedelta
from pathlib import Path
sys.path.insert(0, {tests!r})
from safetensors.torch import save_file
from support.training import batch, first_step, small_presets, stop_after, two_process_recipe
from vaelens.errors import UsageError
from vaelens.finetuning.training import Interrupted, finetune
from vaelens.runs import ranks

ranks.TIMEOUT = timedelta(seconds=60)  # if one ends alone, the other one doesn't wait for it
here, found = Path({here!r}), {{}}
number = ranks.join_ranks("cpu").number
for reduction in ("sum", "mean"):
    step = first_step(two_process_recipe(reduction), batch(2, number * 2), ranks=2)
    if number == 0:
        save_file(step, here / reduction)
def run(name, **more):
    finetune(here / "narrow.safetensors", here / "photos", recipe="tiny-ft-ema", overrides={overrides!r},
             output=here / name, device="cpu", threads=1, **more)
with small_presets():
    try:
        run("seeds", seed=number)
    except UsageError as error:
        found["seeds"] = str(error)
    try:
        run("stopped", should_stop=stop_after(3) if number == 1 else None)
    except Interrupted as ended:
        found["stopped"] = ended.step
ranks.leave_group()
found["threads"] = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
(here / f"{{number}}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have computed a step and begun trainings: they start once for both tests."""
    here = tmp_path_factory.mktemp("ranks")
    random_vae(SMALL_CONFIG).save(here / "narrow.safetensors")
    folder(here / "photos", 8, side=44)
    script, overrides = here / "ranks.py", SHORT_RUN | NO_GAN | {"run.steps": 6}
    script.write_text(TWO_PROCESSES.format(tests=TESTS, here=str(here), overrides=overrides))
    torchrun(script)
    return here


def test_two_processes_compute_the_gradients_of_one(two_processes: Path) -> None:
    for reduction in ("sum", "mean"):
        one, two = first_step(two_process_recipe(reduction)), load_file(two_processes / reduction)
        assert set(one) == set(two)
        assert sum(name.startswith("discriminator.") for name in one) > 4
        for name, tensor in one.items():
            if name.startswith("after."):  # Adam makes a whole step of what is 0 but for rounding (to_k.bias)
                continue
            torch.testing.assert_close(two[name], tensor, rtol=1e-9, atol=1e-12)
        same = [n for n in one if n.startswith("after.") and torch.allclose(one[n], two[n], rtol=1e-7, atol=1e-9)]
        assert len(same) > 0.9 * sum(n.startswith("after.") for n in one)


@pytest.mark.slow
def test_two_processes_resume_a_run_of_one(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", 14, side=44)
    vae, run = random_vae().save(tmp_path / "narrow.safetensors"), tmp_path / "run"
    with pytest.raises(Interrupted):
        train(vae, photos, run, should_stop=stop_after(6))
    train(vae, photos, tmp_path / "whole")
    script = tmp_path / "resume.py"
    script.write_text(train_script(vae, photos, run))
    torchrun(script)
    one, two = (json_lines(folder / "log.jsonl") for folder in (tmp_path / "whole", run))
    assert [line["step"] for line in two] == list(range(1, 13))
    assert two[:6] == one[:6]
    numbers = [{name: value for name, value in line.items() if name != CHECKSUM} for line in (two[6], one[6])]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)
    assert two[-1]["loss"] == pytest.approx(one[-1]["loss"], rel=0.02)
    record = json.loads((run / "run.json").read_text())
    assert (record["ranks"], record["steps"], record["settings"]["micro_batch_size"]) == (2, 12, 4)
    assert len((run / "evaluations.jsonl").read_text().splitlines()) == 6
    assert (run / "README.md").exists()


def test_processes_end_together(two_processes: Path) -> None:
    """Where only the second one is told to stop, and where each has a seed of its own."""
    found: list[dict[str, Any]] = [json.loads((two_processes / f"{number}.json").read_text()) for number in range(2)]
    assert [one["stopped"] for one in found] == [3, 3]
    assert (two_processes / "stopped" / "checkpoints" / "000000003").is_dir()
    assert all("rank 1" in one["seeds"] and "seed" in one["seeds"] for one in found)
    assert not (two_processes / "seeds" / "plan.json").exists()
    assert not any("gloo" in name for one in found for name in one["threads"])  # what still runs may abort the exit

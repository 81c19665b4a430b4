"""Two processes end together: where one of them is asked to stop, and where they were asked for different things."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.training import ALONE, CHANGED, SMALL, folder, torchrun
from support.vaes import random_vae

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
from datetime import timedelta
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.training import small_presets
from vaelens.evaluation import ranks
from vaelens.errors import UsageError
from vaelens.finetuning.running import Interrupted, finetune
ranks.PATIENCE = timedelta(seconds=60)  # if one ends alone, the other one doesn't wait for it
here, asked, found = Path({here!r}), [], {{}}
number = ranks.join_ranks("cpu").number
def stop():
    asked.append(0)
    return number == 1 and len(asked) == 3
def run(name, **more):
    finetune(here / "narrow.safetensors", here / "photos", recipe="tiny-ft-ema", changed={changed!r},
             output=here / name, device="cpu", threads=1, **more)
with small_presets():
    try:
        run("seeds", seed=number)
    except UsageError as error:
        found["seeds"] = str(error)
    try:
        run("stopped", should_stop=stop)
    except Interrupted as ended:
        found["stopped"] = ended.updates
ranks.leave()
found["threads"] = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
(here / f"{{number}}.json").write_text(json.dumps(found))
"""


def test_processes_end_together(tmp_path: Path) -> None:
    """Only the second one is asked to stop; and each is given a seed of its own."""
    random_vae(SMALL).save(tmp_path / "narrow.safetensors")
    folder(tmp_path / "photos", 8, side=44)
    script, changed = tmp_path / "ranks.py", CHANGED | ALONE | {"run.updates": 6}
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1]), here=str(tmp_path), changed=changed))
    torchrun(script)
    said: list[dict[str, Any]] = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2)]
    assert [one["stopped"] for one in said] == [3, 3]
    assert (tmp_path / "stopped" / "checkpoints" / "000000003").is_dir()
    assert all("rank 1 would" in one["seeds"] and "seed" in one["seeds"] for one in said)
    assert not (tmp_path / "seeds" / "plan.json").exists()
    assert not any("gloo" in name for one in said for name in one["threads"])  # what still runs may abort the exit

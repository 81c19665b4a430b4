"""Files that vaelens writes beside VAEs and that hold none: an error says what they are and what takes them."""

from pathlib import Path

import pytest
import torch

from support.commands import invoke
from vaelens.errors import BadInputError
from vaelens.tensors.writing import checked_safetensors
from vaelens.weights.own_files import own_kind
from vaelens.weights.reading import read_vae

PLACES = {
    "checkpoints/000000002/state.safetensors": (
        "training checkpoint of `vaelens finetune`",
        "-o {run} resumes from it",
    ),
    "shards/000000.safetensors": ("shard of a latent cache", "`vaelens evaluate {run}` and `vaelens finetune {run}`"),
    "features/originals/000000.safetensors": ("holds what `vaelens evaluate` computed", "-o {run} uses it"),
}


def write(run: Path, place: str) -> Path:
    path = run / place
    path.parent.mkdir(parents=True)
    path.write_bytes(checked_safetensors({"x": torch.zeros(2)}))
    if path.name == "state.safetensors":
        for name in ("state.json", "manifest.json"):
            (path.parent / name).write_text("{}")
    return path


@pytest.mark.parametrize("place", PLACES)
def test_an_error_says_what_the_file_is_and_what_takes_it(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    path = write(run, place)
    what, use = PLACES[place]
    with pytest.raises(BadInputError) as caught:
        read_vae(path)
    assert what in str(caught.value)
    assert use.format(run=run) in str(caught.value)
    assert invoke("identify", path, code=3).stdout.count(what) == 1
    assert what in invoke("inspect", path, code=3).stderr
    monkeypatch.chdir(path.parent)
    with pytest.raises(BadInputError) as caught:
        read_vae(Path(path.name))
    assert use.format(run=run) in str(caught.value)


def test_others_at_such_places_are_none_of_these(tmp_path: Path) -> None:
    path = write(tmp_path, "shards/000000.safetensors")
    elsewhere = tmp_path / "models" / "000000.safetensors"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(path.read_bytes())
    assert own_kind(elsewhere) is None
    path.write_bytes(b"no header of ours")
    assert own_kind(path) is None

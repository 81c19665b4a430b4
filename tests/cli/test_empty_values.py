"""Empty values of options and arguments, which name nothing."""

from pathlib import Path
from typing import Any

import pytest

from support.commands import invoke
from support.comparisons import face_photo

EMPTY = [
    ["reconstruct", ""],
    ["reconstruct", "photo.png", ""],
    ["reconstruct", "photo.png", "-o", ""],
    ["reconstruct", "photo.png", "--vae", ""],
    ["blind", ""],
    ["blind", "r.json", "-o", ""],
    ["evaluate", ""],
    ["evaluate", "photo.png", "-o", ""],
    ["evaluate", "photo.png", "--boxes", ""],
    ["evaluate", "photo.png", "--preset", ""],
    ["calibrate", ""],
    ["compare", "a face", "--latents", ""],
    ["compare", "a face", "--boxes", ""],
    ["compare", "--photo", ""],
    ["compare", "a face", "--model", ""],
    ["generate", "a face", "-o", ""],
    ["replay", ""],
    ["replay", "photo.png", "--photo", ""],
    ["replay", "photo.png", "--latents", ""],
    ["inspect", ""],
    ["identify", ""],
    ["identify", "photo.png", "--vae", ""],
    ["inspect", "tiny-kl-f8", "--health", "--photo", ""],
    ["finetune", ""],
    ["finetune", "photo.png", "-o", ""],
    ["finetune", "photo.png", "--from", ""],
    ["finetune", "photo.png", "--held-out", ""],
    ["finetune", "photo.png", "--boxes", ""],
    ["serve", "--folder", ""],
]


@pytest.mark.parametrize("arguments", EMPTY, ids=" ".join)
def test_an_empty_path_or_name_is_refused_in_every_option_and_argument(
    arguments: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    """It would mean the current folder, or be shown as nothing."""
    photo = face_photo(tmp_path / "photo.png", 96, 90)
    monkeypatch.chdir(tmp_path)
    ran = invoke(*arguments, code=2)
    assert "the value '' is empty" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == [photo.name]

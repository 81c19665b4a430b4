"""Texts from outside as numbers: one strict reader for options, files and the environment."""

from pathlib import Path

import pytest

from support.commands import invoke
from vaelens.errors import BadInputError, UsageError
from vaelens.images.boxes import read_boxes
from vaelens.sampling import Sampling, parse_size
from vaelens.text.numbers import parse_bytes

LAX = ["1_0", " 10", "10 ", "\u0663", "\uff11\uff10", "True", "0x10", "1" * 5000]
NOT_FINITE = ["nan", "inf", "-Infinity", "1e999"]


@pytest.mark.parametrize("value", [*LAX, *NOT_FINITE, ""])
def test_a_box_value_that_only_python_takes_for_a_number_is_refused(value: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(f"id,label,left,top,right,bottom\na.png,eye,{value},0,20000,20\n")
    with pytest.raises(BadInputError, match=r"line 2: left is .* where a number is expected") as error:
        read_boxes(tmp_path / "boxes.csv")
    assert len(str(error.value)) < 300


def test_box_values_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("id,label,left,top,right,bottom\na.png,eye,-1.5,+.5,1e1,20.\n")
    (box,) = read_boxes(tmp_path / "boxes.csv")["a.png"]
    assert (box.left, box.top, box.right, box.bottom) == (-1.5, 0.5, 10.0, 20.0)


@pytest.mark.parametrize("value", LAX)
@pytest.mark.parametrize("option", ["--take", "--seed", "--batch"])
def test_a_whole_number_of_an_option_is_read_strictly(option: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaelens.evaluation.run.evaluate", lambda *_, **__: pytest.fail("accepted"))
    assert option in invoke("evaluate", "synthetic", option, value, code=2).stderr


@pytest.mark.parametrize("value", [*LAX, *NOT_FINITE])
@pytest.mark.parametrize(("command", "option"), [("evaluate", "--min-aesthetic"), ("finetune", "--weight")])
def test_a_number_of_an_option_is_finite_and_read_strictly(
    command: str, option: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaelens.evaluation.run.evaluate", lambda *_, **__: pytest.fail("accepted"))
    monkeypatch.setattr("vaelens.finetuning.training.finetune", lambda *_, **__: pytest.fail("accepted"))
    value = value if value != "1" * 5000 else "1" * 400
    invoke(command, "synthetic", option, value, code=2)


@pytest.mark.parametrize("value", [*LAX, "0", "-2", "1.0", ""])
def test_a_number_in_the_environment_is_read_strictly(
    value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    ran = invoke("evaluate", "synthetic", "--take", "2", "--preset", "offline", "-o", tmp_path / "out", code=2)
    assert "WORLD_SIZE is " in ran.stderr


def test_a_recipe_with_a_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    huge = "9" * 5000
    invoke("finetune", "--explain", "tiny-scratch", "--set", f"run.steps={huge}", code=2)
    (tmp_path / "huge.toml").write_text(f"[run]\nsteps = {huge}\n")
    invoke("finetune", "--explain", tmp_path / "huge.toml", code=3)


@pytest.mark.parametrize(
    "values",
    [
        {"guidance_scale": 1e308},
        {"guidance_scale": 10**400},
        {"steps": 10**400},
        {"size": (10**400, 512)},
        {"size": (512, 10**5000)},
    ],
    ids=["guidance scale", "whole guidance scale", "steps", "height", "width"],
)
def test_sampling_with_huge_numbers_is_refused_for_what_it_is(values: dict[str, object]) -> None:
    with pytest.raises(UsageError) as error:
        Sampling("a face", **values)  # type: ignore[arg-type]
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("text", ["\u0663\u0662", "5_12", "1" * 5000, "8x" + "1" * 5000])
def test_a_size_is_written_in_ascii_digits(text: str) -> None:
    with pytest.raises(UsageError, match="a size is one side"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2GB", 2 * 10**9), ("2 gb", 2 * 10**9), ("1.5GiB", 3 * 2**29), ("512MiB", 2**29), ("512mb", 512 * 10**6),
        ("8kB", 8000), ("1KiB", 1024), ("1TB", 10**12), ("1TiB", 2**40), ("123", 123), ("123B", 123), ("0.1GB", 10**8),
    ],
)  # fmt: skip
def test_an_amount_of_memory_is_bytes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", [*LAX, *NOT_FINITE, "", "GB", "2G", "2GBs", "-1GB", "+1", "1,5GB", "1e9", "2  GB", "2GB "]
)
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ValueError, match="not an amount of memory"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["0", "0GB", "0.1B", "0.0000000001GB"])
def test_less_than_a_byte_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ValueError, match="less than a byte"):
        parse_bytes(text)

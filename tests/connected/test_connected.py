"""`python -m connected` against the stand-ins, with small random weights in place of the published ones."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from connected import vae_check
from connected.__main__ import main
from connected.settings import ROOT
from support.standins.hub import HubStandin
from vaelens.errors import ResourceError
from vaelens.images.datasets import coco
from vaelens.runs.lock import exclusive_run
from vaelens.runs.records import JsonLines
from vaelens.weights.registry import Score, registry

WEIGHTS = "diffusion_pytorch_model.safetensors"
TOKEN = "hf_secretsecretsecret"
WITHOUT_SCORES = ("--only", "vaes", "--only", "article")


class Story(NamedTuple):
    """The same command again and again: what it plans, interrupted, with three faults, mended, and once more."""

    plan: Any
    interrupted: Any
    faulty: Any
    mended: Any
    again: Any


@pytest.fixture(scope="module")
def story(new_world: Any) -> Story:
    known = list(registry().vaes.items())
    with new_world() as world:
        plan = world.call("--plan", *WITHOUT_SCORES)
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(patch, "ft-ema")
            interrupted = world.call(*WITHOUT_SCORES)
        world.hub.fault("someone/gated", WEIGHTS, status=401, code="GatedRepo", times=1)
        right = registry().vaes["taesd"].files
        world.change("taesd", files=(right[0].model_copy(update={"sha256": "0" * 64}),))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vae_check, "TOLERANCE", -1.0)
            faulty = world.call(*WITHOUT_SCORES)
        world.change("taesd", files=right)
        told = Story(plan, interrupted, faulty, world.call(*WITHOUT_SCORES), world.call(*WITHOUT_SCORES))
    assert list(registry().vaes.items()) == known
    return told


def interrupt_at(patch: pytest.MonkeyPatch, name: str) -> None:
    compare = vae_check.differences

    def interrupted(vae: Any, *rest: Any) -> Any:
        if vae.name == name:
            raise KeyboardInterrupt
        return compare(vae, *rest)

    patch.setattr(vae_check, "differences", interrupted)


def statuses(called: Any) -> dict[str, tuple[str, int]]:
    return {step["name"]: (step["status"], step["code"]) for step in called.report["steps"]}


def steps_run(called: Any) -> list[str]:
    """The names of the steps that the output says are begun."""
    return re.findall(r"^\[\d+ of \d+\] ([^:]+): ", called.output, re.MULTILINE)


@pytest.mark.slow
def test_the_plan_names_sizes_and_time_and_downloads_no_weights(story: Story) -> None:
    assert story.plan.code == 0
    assert story.plan.report == {}
    row = next(line for line in story.plan.output.splitlines() if line.startswith("vae kl-f8"))
    assert "288 kB" in row
    assert "article swap_vae.py" in story.plan.output
    assert "To compute: about " in story.plan.output
    assert "GFLOP/s on cpu" in story.plan.output
    assert not any(path.endswith(".safetensors") for path in story.plan.fetched)


def test_an_interrupt_leaves_a_report_and_what_has_passed_is_not_run_again(story: Story) -> None:
    assert story.interrupted.code == 130
    assert statuses(story.interrupted) == {"vae kl-f8": ("passed", 0)}
    assert story.interrupted.report["complete"] is False
    assert "| vae ft-ema | not run |" in story.interrupted.markdown
    assert "vae kl-f8" not in steps_run(story.faulty)
    assert not any(path.startswith("/CompVis") and "vae/diff" in path for path in story.faulty.fetched)


def test_a_step_goes_on_when_another_failed_and_its_sentence_is_in_the_report(story: Story) -> None:
    faulty = story.faulty
    assert statuses(faulty) == {
        "vae kl-f8": ("passed", 0),
        "vae ft-ema": ("failed", 7),  # no difference is below the tolerance that was set for this call
        "vae ft-mse": ("failed", 7),
        "vae taesd": ("failed", 7),
        "vae pooled": ("passed", 0),
        "vae gated": ("no access", 5),
        "article compare": ("passed", 0),
        "article swap_vae.py": ("passed", 0),
    }
    assert faulty.code == 7
    assert "## vae gated: no access" in faulty.markdown
    assert "the repository is gated. Accept its licence on http://127" in faulty.markdown
    assert f"sha256 {'0' * 64} expected" in faulty.markdown
    assert re.search(r"ft-ema on cpu: means differ from diffusers' by [\d.e-]+, more than -1\.", faulty.markdown)


def test_the_same_command_runs_only_what_failed_and_ends_with_0(story: Story) -> None:
    assert steps_run(story.mended) == ["vae ft-ema", "vae ft-mse", "vae taesd", "vae gated"]
    assert story.mended.code == 0
    assert story.mended.markdown.startswith("# vaelens on a connected machine: 8 of 8 steps passed\n")
    assert story.again.code == 0
    assert steps_run(story.again) == []
    assert "8 of 8 steps passed." in story.again.output.splitlines()
    assert story.again.report["steps"] == story.mended.report["steps"]
    assert story.again.fetched == []


def test_no_line_of_the_output_holds_an_escaped_newline(story: Story) -> None:
    for called in story:
        assert "\\n" not in called.output


@pytest.fixture
def without_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments with which the program has nothing to do."""
    monkeypatch.setattr("connected.__main__.all_steps", lambda settings: [])
    return ["-o", str(tmp_path), "--device", "cpu"]


def test_lines_of_the_log_that_are_damaged_or_of_another_version_are_removed_and_said(
    without_steps: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = JsonLines(tmp_path / "steps.jsonl")
    good = {"name": "a", "kind": "vaes", "key": "k", "status": "passed", "problems": []}
    log.append([good, good | {"other": 1}, {"name": "b"}])
    with log.path.open("a") as file:
        file.write("broken\n")
    assert main(without_steps) == 0
    assert "steps.jsonl: 3 lines are damaged or of another version, and removed." in capsys.readouterr().err
    assert log.read() == [good]


def test_a_result_that_can_not_be_written_ends_the_program_as_it_ends_the_commands(
    without_steps: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(os.open("/dev/full", os.O_WRONLY), "w", encoding="ascii") as full:  # noqa: PTH123 (a device)
        monkeypatch.setattr(sys, "stdout", full)
        assert main(without_steps) == ResourceError.exit_code
    assert "could not be written to stdout" in capsys.readouterr().err


def test_each_vae_is_checked_and_compared_with_diffusers_own_reading_of_it(story: Story) -> None:
    of = story.mended.step("vae ft-mse")["details"]
    (file,) = of["files"]
    assert (file["bytes"], file["sha256"]) == (file["registry"]["bytes"], file["registry"]["sha256"])
    assert file["commit"] == file["registry"]["revision"]
    assert of["diffusers"] == "AutoencoderKL, from the repository's config.json and weights"
    found = of["differences"]["cpu"]
    assert found.pop("tolerance") == 1e-4
    assert found.keys() == {"means", "log-variances", "decoded pixels"}
    assert max(found.values()) <= 1e-4
    assert story.mended.step("vae taesd")["details"]["differences"]["cpu"].keys() >= {"latents", "decoded pixels"}
    assert story.mended.step("vae pooled")["details"]["diffusers"] == "not compared: diffusers has no such network"
    assert file["sha256"] in story.mended.markdown


def test_the_articles_program_makes_the_images_of_compare(story: Story) -> None:
    compare, program = (story.mended.step(f"article {name}")["details"] for name in ("compare", "swap_vae.py"))
    assert compare["prompt"] == program["prompt"] == "a photo of an astronaut riding a horse on mars"
    assert len(compare["latents_sha256"]) == 64
    assert compare["latents_sha256"] in story.mended.markdown
    assert program["difference_from_compare"].keys() == {"kl-f8", "ft-ema", "ft-mse"}
    assert all(distance["largest"] <= 1 for distance in program["difference_from_compare"].values())
    assert all(distance["largest"] > 1 for distance in program["difference_between"].values())


def test_the_report_says_versions_and_machine_but_no_folder_and_no_token(story: Story) -> None:
    on = story.mended.report["machine"]
    assert on["versions"]["torch"] == torch.__version__
    assert {"cores", "threads", "processor", "device", "commit"} <= on.keys()
    for called in (story.faulty, story.mended):
        for text in (called.markdown, str(called.report), called.output):
            assert TOKEN not in text
        for text in (called.markdown, str(called.report)):
            assert str(Path.home()) not in text
            assert "/connected0" not in text
            assert str(ROOT) not in text


@pytest.mark.slow
def test_published_figures_are_compared_digit_for_digit(new_world: Any) -> None:
    """First with figures that aren't the measured ones, then with these."""
    with new_world(scores=True) as world:
        wrong = world.call("--only", "scores", "--full")
        assert wrong.code == 7
        assert "kl-f8: PSNR" in wrong.markdown
        assert "more than 4 standard errors apart" in wrong.markdown
        assert "published figures agree digit for digit. The others: kl-f8 rFID 1.00 published" in wrong.markdown
        measured = wrong.step("scores as published")["details"]["scores"]
        for name in ("kl-f8", "ft-mse"):
            world.change(name, scores=(as_measured(measured[name]),))
        right = world.call("--only", "scores", "--full")
        assert right.code == 0
        assert "14 of 14 agree digit for digit" in right.markdown
        assert right.step("scores as published")["details"]["scores"] == measured
        assert "1 of 2 images" not in right.output  # resumed: nothing is measured again


def as_measured(scores: dict[str, Any]) -> Score:
    values = {key: scores[key]["mean"] for key in ("psnr", "ssim", "psim")}
    values |= {f"{key}_std": scores[key]["std"] for key in ("psnr", "ssim", "psim")}
    return Score(set=coco.NAME, images=3, rfid=scores["rfid"]["value"], **values)


def test_a_folder_in_use_and_wrong_options_are_usage_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with exclusive_run(tmp_path, 0):
        assert main(["--plan", "-o", str(tmp_path), "--device", "cpu"]) == 2
    assert "another run is using this folder" in capsys.readouterr().err
    assert main(["--plan", "-o", str(tmp_path), "--device", "abacus"]) == 2


@pytest.mark.parametrize("option", ["--take", "--steps"])
@pytest.mark.parametrize("number", ["0", "-1", "1_0", " 10", "\u0661", "1e2", ""])
def test_a_number_that_is_not_written_as_one_is_a_usage_error(option: str, number: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--plan", "-o", str(tmp_path), f"{option}={number}", "--only", "vaes", "--device", "abacus"])


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_connected_needs_what_make_demo_needs() -> None:
    lines = subprocess.run(
        ["make", "--dry-run", "--always-make", "connected", "ARGS=--full"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert ".venv/bin/python -m connected --full" in lines
    assert "-m venv .venv" in lines
    assert "-e ." in lines
    assert "[test]" not in lines


@pytest.mark.slow
def test_the_command_starts_without_a_network_and_reports_it(tmp_path: Path) -> None:
    """As a user starts it, with the whole registry: only the embedded VAEs can pass."""
    with HubStandin() as hub:
        environment = hub.environment(tmp_path, PYTHONPATH=str(ROOT / "src"), HF_ENDPOINT="http://127.0.0.1:9")
    command = [sys.executable, "-m", "connected", "--only", "vaes", "--device", "cpu", "-o", str(tmp_path / "run")]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 5, ran.stderr
    report = (tmp_path / "run" / "report.md").read_text()
    assert report.startswith("# vaelens on a connected machine: 3 of 15 steps passed\n")
    assert report.count("127.0.0.1:9 refuses the connection") == 12

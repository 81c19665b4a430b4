"""The checks themselves: each finds what it is for."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaelens as vl
from connected.article import flaws, from_compare
from connected.coco_scores import far_off, unlike_published
from connected.plan import Plan, Planned, duration, make_plan, operations_per_second, size
from connected.report import scrubbed
from connected.settings import ROOT, Settings
from connected.steps import Download, Finding, Outcome, Run, Step, exit_code, passed_before, run_steps
from connected.vae_check import SIDE, differences, round_trip_operations
from support.vaes import random_vae
from vaelens.adapters.libraries import diffusers
from vaelens.errors import BadInputError, CheckFailedError, NetworkError, UsageError
from vaelens.evaluation.published_scores import Match
from vaelens.images.writing import encode_png
from vaelens.runs.records import JsonLines
from vaelens.runtime import silent


def step(name: str, run: Any, **inputs: Any) -> Step:
    return Step("vaes", name, "something", inputs, {}, {"cpu": 1e9}, run)


def ended(name: str, code: int, **details: Any) -> Outcome:
    return Outcome(name, "vaes", "", "failed" if code else "passed", code, details=details)


def raising(error: Exception) -> Any:
    def run(_: Run) -> Finding:
        raise error

    return run


def test_other_weights_are_found_in_moments_and_in_pixels() -> None:
    vae = random_vae()
    theirs = diffusers().AutoencoderKL.from_config(vae.spec.family.to_config_json(vae.spec)).eval()
    theirs.load_state_dict(vae.network.state_dict())
    image = vl.read_image(ROOT / "examples" / "astronaut.png")[:, :, :64, :64]
    assert max(differences(vae, theirs, image).values()) < 1e-5
    with torch.no_grad():
        theirs.decoder.conv_out.bias.add_(1e-3)
    found = differences(vae, theirs, image)
    assert found["means"] < 1e-5 < found["decoded pixels"]
    with torch.no_grad():
        theirs.quant_conv.bias[:4].add_(1e-3)
    found = differences(vae, theirs, image)
    assert found["log-variances"] < 1e-5 < found["means"]


def test_another_scale_in_diffusers_shows_in_the_pixels() -> None:
    vae = random_vae()
    config = vae.spec.family.to_config_json(vae.spec) | {"scaling_factor": 0.13025}
    theirs = diffusers().AutoencoderKL.from_config(config).eval()
    theirs.load_state_dict(vae.network.state_dict())
    image = vl.read_image(ROOT / "examples" / "astronaut.png")[:, :, :64, :64]
    found = differences(vae, theirs, image)
    assert found["means"] < 1e-5 < found["decoded pixels"]


def test_a_mean_over_some_images_may_be_as_far_off_as_so_few_allow() -> None:
    """Spread 3.8 over 200 images: four standard errors are 1.07, and half a printed digit more."""
    std = Match("kl-f8", "psnr_std", Decimal("3.8"), 4.2)
    for ours, is_far in ((24.5, False), (24.55, True), (22.28, False), (22.2, True), (None, True)):
        problems = far_off(200, [Match("kl-f8", "psnr", Decimal("23.4"), ours), std])
        assert len(problems) == is_far, ours
    assert far_off(200, [Match("kl-f8", "rfid", Decimal("4.99"), 30.0)]) == []


def test_published_figures_agree_as_printed_or_are_listed() -> None:
    same = Match("kl-f8", "psnr", Decimal("23.4"), 23.44)
    assert unlike_published(5000, [same]) == []
    (problem,) = unlike_published(5000, [same, Match("ft-mse", "rfid", Decimal("4.70"), 4.706)])
    assert problem == (
        "1 of 2 published figures agree digit for digit. The others: ft-mse rFID 4.70 published, 4.71 here."
    )
    assert unlike_published(4999, [same]) == ["4,999 images were measured, not 5,000."]


def test_black_images_and_decoders_that_were_not_swapped_are_found() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    black = np.zeros_like(image)
    assert flaws({"a": image, "b": image + 1}) == []
    assert flaws({"a": image, "b": black}) == ["b: the image has one colour, 0 of 255."]
    assert flaws({"a": image, "b": image.copy()}) == ["a and b gave the same image, so one of them wasn't used."]


def test_an_image_that_compare_has_not_made_is_said_to_be_missing(tmp_path: Path) -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    compare = ended("article compare", 0, largest_values={"a": 11, "b": 11})
    (tmp_path / "article" / "compare").mkdir(parents=True)
    (tmp_path / "article" / "compare" / "a.png").write_bytes(encode_png(image))
    apart, notes = from_compare({"a": image + 2, "b": image}, tmp_path, compare)
    assert apart == {"a": {"mean": 2.0, "largest": 2}}
    assert notes == ["b: not compared, because article compare has made no image of it."]
    assert from_compare({"a": image}, tmp_path, None)[0] == {}


def test_the_exit_code_is_the_steps_own_where_all_failures_share_one() -> None:
    assert exit_code([ended("a", 0), ended("b", 0)]) == 0
    assert exit_code([ended("a", 0), ended("b", 5), ended("c", 5)]) == 5
    assert exit_code([ended("a", 3), ended("b", 5)]) == 7


def test_every_error_of_a_step_is_an_outcome_and_the_next_step_runs(tmp_path: Path) -> None:
    settings, log, outcomes = Settings(tmp_path), JsonLines(tmp_path / "steps.jsonl"), dict[str, Outcome]()
    steps = [
        step("network", raising(NetworkError("no network."))),
        step("file", raising(BadInputError("a damaged file."))),
        step("call", raising(UsageError("another run."))),
        step("bug", raising(ZeroDivisionError("division by zero"))),
        step("memory", raising(MemoryError())),
        step("check", lambda _: Finding({"seen": 1}, ("7 isn't 8.",))),
        step("good", lambda _: Finding({"seen": 2})),
    ]
    list(run_steps(steps, Run(settings, silent, silent, outcomes), log, outcomes, {}))
    assert {name: one.code for name, one in outcomes.items()} == {
        "network": 5, "file": 3, "call": 2, "bug": 1, "memory": 6, "check": 7, "good": 0,
    }  # fmt: skip
    assert "ZeroDivisionError" in outcomes["bug"].traceback
    assert outcomes["check"].details == {"seen": 1}
    assert list(passed_before(steps, log, {}, silent)) == ["good"]
    assert passed_before(steps, log, {"versions": "others"}, silent) == {}
    assert passed_before([step("good", raising(ValueError()), take=9)], log, {}, silent) == {}


def test_what_needs_a_vae_that_could_not_be_loaded_goes_on_without_it(tmp_path: Path) -> None:
    outcomes = {"vae a": ended("vae a", 5), "vae b": ended("vae b", 7, weights="12-34"), "vae c": ended("vae c", 5)}
    run = Run(Settings(tmp_path), silent, silent, outcomes)
    assert run.usable(["a", "b"]) == (["b"], ["a is left out, because it couldn't be loaded: see its own step."])
    assert run.usable(["d"]) == (["d"], [])  # its step wasn't asked for
    with pytest.raises(CheckFailedError, match="none of a, c could be loaded"):
        run.usable(["a", "c"])


def test_a_plan_counts_a_shared_download_once_and_says_what_it_cannot_know() -> None:
    def known() -> list[Download]:
        return [Download("weights", 3_000_000_000), Download("more", None)]

    def unreachable() -> list[Download]:
        raise NetworkError("the hub is silent.")

    first = Step("vaes", "a", "", {}, {"weights": known}, {"cpu": 0.0}, raising(ValueError()))
    second = Step("vaes", "b", "", {}, {"weights": known, "model": unreachable}, {"cpu": 0.0}, raising(ValueError()))
    plan = make_plan([first, second, first], [])
    assert [planned.bytes for planned in plan.steps] == [3_000_000_000, 0, 0]
    assert [row[2] for row in plan.table().rows] == ["3.0 GB and 1 of unknown size", "1 of unknown size", "nothing"]
    assert plan.steps[1].notes == ("the hub is silent.",)
    assert "To download: 3.0 GB, and what is of unknown size; at 100 Mbit/s that takes 4 min." in plan.summary()[0]
    assert [row[2] for row in make_plan([first], ["a"]).table().rows] == ["passed before"]


def test_a_plan_warns_where_the_disk_is_too_small() -> None:
    large = Planned(step("a", raising(ValueError())), False, (Download("weights", 10**18),), 1.0)
    assert "Warning: there is room for " in Plan((large,), {"cpu": 1e9}).summary()[-1]


def test_operations_are_those_of_the_network() -> None:
    """An image of a quarter of the pixels costs a quarter, but for the attention at the lowest resolution."""
    assert round_trip_operations("taesd", SIDE) == pytest.approx(4 * round_trip_operations("taesd", SIDE // 2))
    assert round_trip_operations("kl-f8") == pytest.approx(8.95e11, rel=0.01)
    assert operations_per_second("cpu") > 1e6


def test_durations_and_sizes_in_words() -> None:
    assert [duration(s) for s in (0, 90, 150, 8000)] == ["1 s", "90 s", "2 min", "2 h"]
    assert [size(b) for b in (12_345, 5_000_000, 2_340_000_000)] == ["12 kB", "5 MB", "2.3 GB"]


def test_paths_of_this_machine_are_not_in_a_report(tmp_path: Path) -> None:
    text = f"{tmp_path}/coco-200/rows.jsonl, {Path.home()}/.cache/huggingface, {ROOT}/examples"
    assert scrubbed(text, tmp_path) == "./coco-200/rows.jsonl, ~/.cache/huggingface, ./examples"

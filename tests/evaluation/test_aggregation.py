"""From rows and features to results: signs, shares, defaults, and when a card's values may stand beside ours."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from vaelens.evaluation import aggregation, dataset_scores
from vaelens.evaluation.evaluation_folder import EvaluationFolder
from vaelens.evaluation.feature_files import ORIGINALS
from vaelens.evaluation.loaded_preset import with_metrics
from vaelens.evaluation.presets import PRESETS, Preset
from vaelens.evaluation.results import Row
from vaelens.images.datasets.items import Dataset, Item, Source
from vaelens.metrics.frechet import Moments, frechet_distance
from vaelens.metrics.kid import kid_each

CARD = PRESETS["card-2022"]
PRINTED = {"rfid", "psnr", "ssim", "psim"}
PSNR = {"one": (20.0, 21.0, 22.0, None, 24.0, 25.0, 26.0), "two": (21.0, 23.0, 25.0, 27.0, None, 25.0, 25.0)}


def dataset(count: int, kind: str = "folder") -> Dataset:
    ids = tuple(f"{n:04d}" for n in range(count))
    source = Source("made up", kind, ids, lambda name: (b"",))
    return Dataset("made up", kind, tuple(Item(name, "0" * 64) for name in ids), (), source)


def record(**changes: Any) -> dict[str, Any]:
    vae = {"name": "kl-f8", "published": True, "dtype": "float32"} | changes
    networks = {name: {"sha256": "0" * 64, "source": "published"} for name in ("inception", "vgg16")}
    return {"vaes": [vae], "settings": {"networks": networks}}


@pytest.fixture
def folder(tmp_path: Path) -> EvaluationFolder:
    """Seven images through two VAEs, the second nearer to the originals in its features."""
    images = dataset(7)
    folder = EvaluationFolder(tmp_path, [item.id for item in images.items], 7)
    folder.start(
        {"command": "evaluate", "preset": {"name": "made up"}, "batch": 7, "threads": 1, "vaes": {"one": {}, "two": {}}}
    )
    originals = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    for far, vae in ((2.0, "one"), (1.0, "two")):
        rows = [
            Row(item.id, vae, item.sha256, True, {"psnr": value})
            for item, value in zip(images.items, PSNR[vae], strict=True)
        ]
        folder.add(0, vae, rows, [], {ORIGINALS: {"fd-small": originals}, vae: {"fd-small": originals + far}})
    return folder


def test_differences_are_of_the_second_vae_against_the_first(
    folder: EvaluationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_scores, "FEWEST_GROUPS", 7)
    preset = dataclasses.replace(PRESETS["offline"], metrics=("fd_small", "psnr"))
    named = {"vaes": [{"name": "one"}, {"name": "two"}]}
    results = aggregation.aggregate(folder, dataset(7), preset, named)
    ((place, pair),) = results.differences.items()
    assert place == ("two", "one", "psnr")
    assert pair.difference == pytest.approx((1 + 2 + 3 + 0 - 1) / 5)
    assert (pair.count, pair.dropped) == (5, 2)
    assert (pair.won, pair.ties) == (4 / 7, 1 / 7), "an infinite PSNR beats any other"
    one, two = (results.spreads[name, "psnr"] for name in ("one", "two"))
    assert (one.mean, two.mean, one.count, one.exact, two.exact) == (22.8, 23.8, 5, 1, 1)
    values = [frechet_distance(*(sums(folder, name) for name in (vae, ORIGINALS))) for vae in ("one", "two")]
    assert values == pytest.approx([8, 2])
    ((place, difference),) = results.dataset_differences.items()
    assert place == ("two", "one", "fd_small")
    assert difference.value == pytest.approx(2 - 8)
    assert difference.low <= difference.value <= difference.high
    monkeypatch.setattr(dataset_scores, "FEWEST_GROUPS", 8)
    few = aggregation.aggregate(folder, dataset(7), preset, named).dataset_differences[place]
    assert (few.value, math.isnan(few.low), few.excludes_zero) == (difference.value, True, False)


def sums(folder: EvaluationFolder, name: str) -> Moments:
    features = folder.features(name, "fd-small")
    assert features is not None
    return Moments.of(features)


def test_kid_has_a_hundred_subsets_of_a_thousand(folder: EvaluationFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As published scores are, the difference read as the others are."""
    generator = torch.Generator().manual_seed(0)
    rows = {ORIGINALS: torch.randn(1200, 4, generator=generator)}
    rows |= {vae: torch.randn(1200, 4, generator=generator) + far for vae, far in (("one", 0.5), ("two", 0.2))}
    monkeypatch.setattr(EvaluationFolder, "features", lambda self, name, extractor: rows[name])
    found = dataset_scores.kid_scores(folder, "inception", ["one", "two"], print)
    one, two = (kid_each({vae: rows[vae]}, rows[ORIGINALS], 100, 1000, 2020)[vae] for vae in ("one", "two"))
    assert found.scores["one"].value == pytest.approx(1000 * one.mean, rel=1e-9)
    assert found.scores["two"].value == pytest.approx(1000 * two.mean, rel=1e-9)
    assert one.std is not None
    assert found.scores["one"].note == f"± {1000 * one.std:.3f}, 100 x 1000"
    assert two.mean < one.mean
    assert f"; {1000 * (two.mean - one.mean):+.3f} ± " in found.scores["two"].note
    assert not found.differences


def test_a_missing_psnr_is_infinite_where_the_reconstruction_is_finite() -> None:
    assert Row("a", "b", "", True, {"psnr": None}).value("psnr") == math.inf
    assert math.isnan(Row("a", "b", "", False, {"psnr": None}).value("psnr"))


def published(preset: Preset = CARD, count: int = 5000, kind: str = "coco-val2017", **changes: Any) -> set[str]:
    found = aggregation._published(dataset(count, kind), preset, record(**changes))
    assert {vae for vae, _ in found} <= {"kl-f8"}
    return {key for _, key in found}


def test_published_values_stand_beside_their_own_protocol() -> None:
    found = aggregation._published(dataset(5000, "coco-val2017"), CARD, record())
    assert found == {
        ("kl-f8", "rfid"): "4.99", ("kl-f8", "psnr"): "23.4 ± 3.8", ("kl-f8", "ssim"): "0.69 ± 0.14",
        ("kl-f8", "psim"): "1.01 ± 0.28",
    }  # fmt: skip
    assert published(with_metrics(CARD, ["fd_dinov2"])) == PRINTED


@pytest.mark.parametrize(
    "other",
    [
        {"preset": PRESETS["modern"]},
        {"preset": dataclasses.replace(CARD, resize="pillow_bicubic")},
        {"preset": dataclasses.replace(CARD, name="mine")},
        {"count": 4999},
        {"kind": "folder"},
        {"published": False},
        {"dtype": "bfloat16"},
        {"name": "tiny-kl-f8"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_published_values_stand_beside_no_other_protocol(other: dict[str, Any]) -> None:
    assert published(**other) == set()


@pytest.mark.parametrize(("network", "left"), [("inception", PRINTED - {"rfid"}), ("vgg16", PRINTED - {"psim"})])
def test_a_network_that_was_given_has_no_published_values(network: str, left: set[str]) -> None:
    made = record()
    made["settings"]["networks"][network]["source"] = "given"
    found = aggregation._published(dataset(5000, "coco-val2017"), CARD, made)
    assert {key for _, key in found} == left


def test_a_dataset_with_unreadable_images_has_no_published_values(
    folder: EvaluationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregation, "_published", lambda *_: {("one", "psnr"): "23.4 ± 3.8"})
    preset = dataclasses.replace(PRESETS["offline"], metrics=("psnr",))
    named = {"vaes": [{"name": "one"}]}
    assert aggregation.aggregate(folder, dataset(7), preset, named).published
    monkeypatch.setattr(EvaluationFolder, "bad", lambda self: {"0003": "unreadable"})
    assert not aggregation.aggregate(folder, dataset(7), preset, named).published

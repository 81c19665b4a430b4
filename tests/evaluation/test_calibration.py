"""`calibrate` on made-up tables with a known answer."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import vaelens as vl
from support.small_run import SIDE, patch_small_runs, vae_options
from vaelens.cli.main import app
from vaelens.errors import BadInputError, NetworkError, UsageError
from vaelens.evaluation import calibration
from vaelens.evaluation.calibration import Calibration, Combination, calibrate
from vaelens.evaluation.presets import Preset
from vaelens.evaluation.published_scores import Match
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate
from vaelens.metrics import pretrained

pytestmark = pytest.mark.slow

FAST = {"take": 3, "batch": 2, "threads": 1, "offline": True}
OPTIONS = ["--batch", "2", "--threads", "1", "--offline", "--device", "cpu"]
TRUTH = ("pillow_bicubic", "mode", "truncate", "valid")


class Calibrated(NamedTuple):
    """A table as TRUTH prints it, its figures, and what `calibrate` finds for it."""

    table: Path
    figures: dict[str, dict[str, float]]
    output: Path
    result: Calibration


@pytest.fixture(scope="module")
def calibrated(photos: Path, two_vaes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    preset = Preset("truth", "rules", "pillow_bicubic", SIDE, "mode", "truncate", "valid", None, ("psnr", "ssim"))
    folder = tmp_path_factory.mktemp("calibration")
    with pytest.MonkeyPatch.context() as patch:
        patch_calibration(patch, folder)
        results = evaluate(two_vaes, photos, preset=preset, output=folder / "truth", **FAST)
        assert isinstance(results, Results)
        figures = {
            vae: {
                key + part: getattr(results.spreads[vae, key], field)
                for key in ("psnr", "ssim")
                for part, field in (("", "mean"), ("_std", "std"))
            }
            for vae in results.vaes
        }
        table = folder / "published.toml"
        table.write_text(
            "\n".join(
                f"[{vae}]\n" + "".join(f"{name} = {value:.6f}\n" for name, value in of_vae.items())
                for vae, of_vae in figures.items()
            )
        )
        result = calibrate(two_vaes, photos, published=table, output=folder / "run", **FAST)
    return Calibrated(table, figures, folder / "run", result)


def patch_calibration(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Small runs of 64 pixels instead of 256, and no way to the network."""

    def small_preset(side: int, **options: Any) -> Preset:
        assert side == 256
        return Preset(side=SIDE, **options)

    patch.setattr(calibration, "Preset", small_preset)
    patch_small_runs(patch, folder)
    patch.setattr(pretrained, "fetch_web", lambda *_, **__: pytest.fail("a download was started"))


@pytest.fixture(autouse=True)
def small_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_calibration(monkeypatch, tmp_path)


def test_the_protocol_that_made_the_table_is_found(calibrated: Calibrated) -> None:
    result = calibrated.result
    assert len(result.combinations) == 2 * 2 * 2 * 2
    (truth,) = result.reproduced
    assert truth is result.combinations[0]
    assert (truth.resize, truth.posterior, truth.rounding, truth.padding) == TRUTH
    assert truth.reproduced_count == 8
    second = result.combinations[1]
    assert second.reproduced_count == 4, "the same protocol with the other padding has the same PSNR"
    assert (second.resize, second.posterior, second.rounding, second.padding) == (*TRUTH[:3], "zero")
    assert all(c.worst > 0 for c in result.combinations[1:])
    assert "1 combination reproduces all 8 published figures" in result.verdict
    assert "pillow_bicubic, mode, truncate, SSIM valid" in result.verdict
    saved = json.loads((calibrated.output / "calibration.json").read_text())
    assert saved["reproduced"] == [truth.name]
    assert [c["reproduced_count"] for c in saved["combinations"]] == [c.reproduced_count for c in result.combinations]


def test_all_sixteen_combinations_differ(calibrated: Calibrated) -> None:
    """Else the table above could name one of several by chance."""
    assert len({tuple(match.ours for match in c.matches) for c in calibrated.result.combinations}) == 16


def test_figures_stand_beside_the_published_ones(calibrated: Calibrated) -> None:
    rows = calibrated.result.figures().rows
    assert [row[:2] for row in rows[:5]] == [
        ("one", "PSNR"), ("one", "PSNR ±"), ("one", "SSIM"), ("one", "SSIM ±"), ("two", "PSNR"),
    ]  # fmt: skip
    assert rows[2][2:] == (f"{calibrated.figures['one']['ssim']:.6f}",) * 2 + ("0",)
    ranking = calibrated.result.ranking()
    assert ranking.rows[0] == (*TRUTH, "8 of 8", "0", "0.00")
    assert ranking.rows[1][4] == "4 of 8"


def test_the_command_resumes_and_prints_the_ranking(
    calibrated: Calibrated,
    photos: Path,
    two_vaes: list[Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the same folder, with half the rows of one protocol lost: only those are measured again."""
    monkeypatch.setattr(calibration, "POSTERIORS", ("mode",))  # half of it is enough
    half = calibrated.output / "opencv_bilinear-mode-half-up" / "rows.jsonl"
    before = {file: file.read_bytes() for file in calibrated.output.rglob("rows.jsonl")}
    lines = half.read_text().splitlines(keepends=True)
    half.write_text("".join(lines[: len(lines) // 2]))
    command = ["calibrate", str(photos), "--table", str(calibrated.table), *vae_options(two_vaes), "--take", "3"]
    app([*command, "-o", str(calibrated.output), *OPTIONS], standalone_mode=False)
    printed = capsys.readouterr()
    assert "4 of 4: pillow_bicubic, mode, half-up" in printed.err
    assert calibrated.result.verdict in printed.out
    lines = printed.out.splitlines()
    assert lines[0].startswith("resize ")
    assert lines[1].split() == [*TRUTH, "8", "of", "8", "0", "0.00"]
    assert "pillow_bicubic, mode, truncate, SSIM valid, beside the published figures:" in lines
    for file, rows in before.items():
        same = sorted if file == half else list
        assert same(file.read_bytes().splitlines()) == same(rows.splitlines())
    saved = json.loads((calibrated.output / "calibration.json").read_text())["combinations"]
    assert saved == [c for c in calibrated.result.as_dict()["combinations"] if c["posterior"] == "mode"]


def test_errors_of_the_command_name_options_that_help(
    photos: Path,
    rewrite: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that doesn't say its latent space, and an image that can't be read: --space and --skip-bad."""
    for dimension in ("POSTERIORS", "ROUNDINGS"):
        monkeypatch.setattr(calibration, dimension, getattr(calibration, dimension)[:1])
    saved = vl.load("tiny-kl-f8", device="cpu").save(tmp_path / "saved.safetensors")
    bare = rewrite(saved, tmp_path / "one.safetensors", metadata={})
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("00.png", "01.png", "02.png"):
        (folder / name).write_bytes((photos / name).read_bytes()[: 900 if name == "01.png" else None])
    (tmp_path / "table.toml").write_text("[one]\npsnr = 20.0\n")
    command = ["calibrate", str(folder), "--vae", str(bare), "--table", str(tmp_path / "table.toml")]
    command += ["-o", str(tmp_path / "run"), *OPTIONS]
    with pytest.raises(BadInputError, match="--space tiny"):
        app(command, standalone_mode=False)
    with pytest.raises(BadInputError, match=r"01\.png.*--skip-bad"):
        app([*command, "--space", "tiny"], standalone_mode=False)
    capsys.readouterr()
    app([*command, "--space", "tiny", "--skip-bad"], standalone_mode=False)
    assert "Left out of every figure: 1 unreadable: 01.png: a damaged" in capsys.readouterr().out
    saved = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert saved["images"] == 2
    assert list(saved["skipped"]) == ["01.png"]


def test_a_table_that_no_combination_reproduces(
    photos: Path, two_vaes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PSNR alone: no padding to choose; the digits of the table count, 99.90 having two."""
    table = tmp_path / "table.toml"
    table.write_text("[one]\npsnr = 99.90\n")
    monkeypatch.setattr(calibration, "ROUNDINGS", ("truncate",))
    result = calibrate(two_vaes[0], photos, published=table, output=tmp_path / "run", **FAST | {"take": 2})
    assert result.images == 2
    assert len(result.combinations) == 4
    assert result.reproduced == ()
    best = result.combinations[0]
    assert best.padding is None
    assert best.name.count(",") == 2
    (match,) = best.matches
    assert match.ours is not None
    assert (match.digits, match.printed) == (2, f"{match.ours:.2f}")
    assert match.steps == round(9990 - float(match.printed) * 100)
    assert best.worst == min(c.worst for c in result.combinations)
    start = f"No combination reproduces all 1 published figures. The nearest is {best.name}: 0 of 1"
    assert result.verdict.startswith(start)
    assert f"off by up to {match.steps:.0f} in the last printed digit" in result.verdict


def test_combinations_are_ranked_by_figures_then_by_distance() -> None:
    def combination(name: str, *ours: float | None) -> Combination:
        matches = [Match("a", "psnr", Decimal("23.4"), one) for one in ours]
        return Combination(name, "mode", "truncate", None, tuple(matches))

    assert [Match("a", "psnr", Decimal("23.4"), value).steps for value in (23.35001, 23.449, 23.46, 22.4, None)] == [
        0, 0, 1, 10, float("inf"),
    ]  # fmt: skip
    assert Match("a", "ssim", Decimal("0.70"), 0.7049).printed == "0.70"
    assert Match("a", "rfid", Decimal(5), 5.4).steps == 0
    one = combination("one", 23.4, 99.0)
    assert (one.reproduced_count, one.worst, one.total) == (1, 756, 756)
    unknown = Calibration("set", 1, (combination("none", None),))
    assert "an unknown amount" in unknown.verdict
    assert unknown.figures().rows[0] == ("a", "PSNR", "23.4", "none", "inf")
    both = Calibration("set", 1, (combination("one", 23.4), combination("two", 23.4), combination("three", 2.0)))
    assert [c.resize for c in both.reproduced] == ["one", "two"]
    assert "2 reproduce all 1" in both.verdict


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no figures"),
        ("[one\n", "not a table of published figures"),
        ("psnr = 23.4\n", "psnr is not a table"),
        ("[one]\n", "one is not a table"),
        ("[one]\nlpips = 0.1\n", r"unknown figure 'lpips'. Known: rfid, psnr, psnr_std"),
        ("[one]\nrfid_std = 0.1\n", "unknown figure 'rfid_std'"),
        ('[one]\npsnr = "23.4"\n', "psnr = 23.4 is not a number"),
        ("[one]\npsnr = true\n", "psnr = True is not a number"),
        ("[one]\npsnr = nan\n", "psnr = NaN is not a number"),
        ("[one]\npsnr = inf\n", "psnr = Infinity is not a number"),
        ("[one]\npsnr = 1e999999\n", "is not a number"),
        ("[one]\npsnr = 1e-999999\n", "is not a number"),
        ("[one]\npsnr = [23.4]\n", "is not a number"),
    ],
)
def test_a_file_without_a_valid_table_is_refused(content: str, message: str, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.toml"
    table.write_text(content)
    with pytest.raises(BadInputError, match=message) as caught:
        calibrate("one.safetensors", photos, published=table, output=tmp_path / "run", **FAST)
    assert str(table) in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_table_that_cannot_be_read_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for path, message in (
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "bytes.toml", "isn't a table of published figures: it isn't text"),
    ):
        with pytest.raises(BadInputError, match=message):
            calibrate("one.safetensors", photos, published=path, output=tmp_path / "run", **FAST)


def test_vaes_without_published_figures_are_refused(
    calibrated: Calibrated, photos: Path, two_vaes: list[Path], tmp_path: Path
) -> None:
    table = calibrated.table
    for vaes, published, message in (
        ([two_vaes[0], "three.safetensors"], table, r"no figures of three\.safetensors are published.*of one, two\."),
        (two_vaes, None, "model cards for coco-val2017, only of kl-f8, ft-ema, ft-mse"),
        ([], table, "no VAE named"),
    ):
        with pytest.raises(UsageError, match=message):
            calibrate(vaes, photos, published=published, output=tmp_path / "run", **FAST)
    assert not (tmp_path / "run").exists()


def test_only_the_networks_of_the_figures_are_needed(
    calibrated: Calibrated, photos: Path, two_vaes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"published": calibrated.table, "output": tmp_path / "run", **FAST}
    with pytest.raises(UsageError, match=r"no network called vgg16\. Needed: none"):
        calibrate(two_vaes, photos, networks={"vgg16": "x"}, **options)
    table = tmp_path / "table.toml"
    table.write_text("[one]\npsim = 0.92\n")
    with pytest.raises(NetworkError, match=r"vgg16.*553 MB"):
        calibrate(two_vaes[0], photos, **options | {"published": table})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="not under torchrun"):
        calibrate(two_vaes, photos, **options)
    assert not (tmp_path / "run").exists()


def test_the_model_cards_are_the_default_table(
    photos: Path, two_vaes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file called as a known VAE has that VAE's figures: rFID to two digits, PSNR to one, all four with spreads."""
    metrics: list[tuple[str, ...]] = []

    def stop(preset: Preset, *_: object, **__: object) -> None:
        metrics.append(preset.metrics)
        raise InterruptedError

    monkeypatch.setattr(calibration, "check_networks", stop)
    known = tmp_path / "ft-mse.safetensors"
    known.write_bytes(two_vaes[0].read_bytes())
    with pytest.raises(InterruptedError):
        calibrate([known, "stabilityai/sdxl-vae", "KL-F8"], photos, output=tmp_path / "run", **FAST)
    assert metrics == [("rfid", "psnr", "ssim_zero", "ssim_valid", "psim")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "calibrate needs the VAEs of the published table"), (["--vae", "kl-f8", "--network", "vgg16"], "NAME=FILE")],
)
def test_the_command_needs_a_vae_and_whole_options(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        app(["calibrate", *arguments], standalone_mode=False)

"""`calibrate` on made-up tables with a known answer."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import skimage
from PIL import Image

import vaelens as vl
from support.vaes import random_vae
from vaelens.errors import BadInputError, NetworkError, UsageError
from vaelens.evaluation import calibration
from vaelens.evaluation.calibration import Calibration, Combination, Match, calibrate
from vaelens.evaluation.presets import Preset
from vaelens.evaluation.results import Results
from vaelens.evaluation.run import evaluate
from vaelens.metrics import pretrained
from vaelens.networks.autoencoder_kl import AutoencoderKLConfig

SKIMAGE = Path(skimage.__file__).parent / "data"
SMALL = AutoencoderKLConfig(block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=4)
IMAGES = 5
FAST = {"batch": 2, "threads": 1, "offline": True}
TRUTH = ("pillow_bicubic", "mode", "truncate", "valid")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(IMAGES):
        whole = Image.open(SKIMAGE / ("astronaut.png", "chelsea.png", "coffee.png")[number % 3]).convert("RGB")
        whole.crop((9 * number, 5 * number, 300 - number, 290)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def vaes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("vaes")
    return [random_vae(SMALL, seed).save(folder / f"{name}.safetensors") for seed, name in ((1, "one"), (2, "two"))]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An own cache, and no way to the network."""
    monkeypatch.setenv("VAELENS_CACHE", str(cache))
    monkeypatch.setattr(pretrained, "fetch_web", lambda *_, **__: pytest.fail("a download was asked for"))


@pytest.fixture(scope="module")
def measured(
    photos: Path, vaes: list[Path], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, dict[str, float]]]:
    """A table as TRUTH prints it, and its figures."""
    preset = Preset("truth", "rules", "pillow_bicubic", 256, "mode", "truncate", "valid", None, ("psnr", "ssim"))
    folder = tmp_path_factory.mktemp("truth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAELENS_CACHE", str(cache))
        results = evaluate(vaes, photos, preset=preset, output=folder / "run", **FAST)
    assert isinstance(results, Results)
    figures = {
        vae: {
            key + part: getattr(results.spreads[vae, key], field)
            for key in ("psnr", "ssim")
            for part, field in (("", "mean"), ("_std", "std"))
        }
        for vae in results.vaes
    }
    lines = [
        f"[{vae}]\n" + "".join(f"{name} = {value:.6f}\n" for name, value in of.items()) for vae, of in figures.items()
    ]
    table = folder / "published.toml"
    table.write_text("\n".join(lines))
    return table, figures


@pytest.fixture(scope="module")
def found(
    measured: tuple[Path, object], photos: Path, vaes: list[Path], cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Calibration]:
    output = tmp_path_factory.mktemp("calibration") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAELENS_CACHE", str(cache))
        return output, calibrate(vaes, photos, published=measured[0], output=output, **FAST)


def test_the_way_that_made_the_table_is_found(found: tuple[Path, Calibration]) -> None:
    result = found[1]
    assert len(result.combinations) == 2 * 2 * 2 * 2
    (truth,) = result.reproduced
    assert truth is result.combinations[0]
    assert (truth.resize, truth.posterior, truth.rounding, truth.padding) == TRUTH
    assert truth.reproduced_count == 8
    second = result.combinations[1]
    assert second.reproduced_count == 4, "the same way with the other padding has the same PSNR"
    assert (second.resize, second.posterior, second.rounding, second.padding) == (*TRUTH[:3], "zero")
    assert all(c.worst > 0 for c in result.combinations[1:])
    assert "1 combination reproduces all 8 published figures" in result.verdict
    assert "pillow_bicubic, mode, truncate, SSIM valid" in result.verdict
    kept = json.loads((found[0] / "calibration.json").read_text())
    assert kept["reproduced"] == [truth.name]
    assert [c["reproduced_count"] for c in kept["combinations"]] == [c.reproduced_count for c in result.combinations]


def test_every_dimension_matters(found: tuple[Path, Calibration]) -> None:
    """Else the table above could name one of several by chance: all sixteen measure something else."""
    figures = {tuple(match.ours for match in c.matches) for c in found[1].combinations}
    assert len(figures) == 16


def test_figures_stand_beside_the_published_ones(
    found: tuple[Path, Calibration], measured: tuple[Path, dict[str, dict[str, float]]]
) -> None:
    rows = found[1].figures().rows
    assert [row[:2] for row in rows[:5]] == [
        ("one", "PSNR"), ("one", "PSNR ±"), ("one", "SSIM"), ("one", "SSIM ±"), ("two", "PSNR"),
    ]  # fmt: skip
    assert rows[2][2:] == (f"{measured[1]['one']['ssim']:.6f}",) * 2 + ("0",)
    ranking = found[1].ranking()
    assert ranking.rows[0] == (*TRUTH, "8 of 8", "0", "0.00")
    assert ranking.rows[1][4] == "4 of 8"


def test_a_stopped_call_goes_on_and_the_command_prints_it(
    found: tuple[Path, Calibration],
    measured: tuple[Path, object],
    photos: Path,
    vaes: list[Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command on the same folder, of which one way is half gone: only that is measured again."""
    from vaelens.cli.main import app

    monkeypatch.setattr(calibration, "POSTERIORS", ("mode",))  # half of it is enough
    half = found[0] / "opencv_bilinear-mode-half-up" / "rows.jsonl"
    before = {file: file.read_bytes() for file in found[0].rglob("rows.jsonl")}
    lines = half.read_text().splitlines(keepends=True)
    half.write_text("".join(lines[: len(lines) // 2]))
    named = [part for vae in vaes for part in ("--vae", str(vae))]
    options = ["-o", str(found[0]), "--batch", "2", "--threads", "1", "--offline", "--device", "cpu"]
    app(["calibrate", str(photos), "--table", str(measured[0]), *named, *options], standalone_mode=False)
    said = capsys.readouterr()
    assert "4 of 4: pillow_bicubic, mode, half-up" in said.err
    assert found[1].verdict in said.out
    lines = said.out.splitlines()
    assert lines[0].startswith("resize ")
    assert lines[1].split() == [*TRUTH, "8", "of", "8", "0", "0.00"]
    assert "pillow_bicubic, mode, truncate, SSIM valid, beside the published figures:" in lines
    for file, rows in before.items():
        same = sorted if file == half else list
        assert same(file.read_bytes().splitlines()) == same(rows.splitlines())
    kept = json.loads((found[0] / "calibration.json").read_text())["combinations"]
    assert kept == [c for c in found[1].as_dict()["combinations"] if c["posterior"] == "mode"]


def test_a_bare_file_and_a_corrupt_image_go_as_the_errors_advise(
    photos: Path,
    rewrite: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that doesn't say its latent space, and an image that can't be read: --space and --skip-bad."""
    from vaelens.cli.main import app

    for dimension in ("POSTERIORS", "ROUNDINGS"):
        monkeypatch.setattr(calibration, dimension, getattr(calibration, dimension)[:1])
    saved = vl.load("tiny-kl-f8", device="cpu").save(tmp_path / "saved.safetensors")
    bare = rewrite(saved, tmp_path / "one.safetensors", metadata={})
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("0.png", "1.png", "2.png"):
        (folder / name).write_bytes((photos / name).read_bytes()[: 900 if name == "1.png" else None])
    (tmp_path / "table.toml").write_text("[one]\npsnr = 20.0\n")
    command = ["calibrate", str(folder), "--vae", str(bare), "--table", str(tmp_path / "table.toml")]
    command += ["-o", str(tmp_path / "run"), "--batch", "2", "--threads", "1", "--device", "cpu", "--offline"]
    with pytest.raises(BadInputError, match="--space tiny"):
        app(command, standalone_mode=False)
    with pytest.raises(BadInputError, match=r"1\.png.*--skip-bad"):
        app([*command, "--space", "tiny"], standalone_mode=False)
    capsys.readouterr()
    app([*command, "--space", "tiny", "--skip-bad"], standalone_mode=False)
    assert "Left out of every figure: 1 unreadable: 1.png (" in capsys.readouterr().out
    kept = json.loads((tmp_path / "run" / "calibration.json").read_text())
    assert kept["images"] == 2
    assert list(kept["skipped"]) == ["1.png"]


def test_nothing_fits(photos: Path, vaes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PSNR alone: no padding to choose; the digits of the table count, 99.90 having two."""
    table = tmp_path / "table.toml"
    table.write_text("[one]\npsnr = 99.90\n")
    monkeypatch.setattr(calibration, "ROUNDINGS", ("truncate",))
    result = calibrate(vaes[0], photos, published=table, output=tmp_path / "run", take=2, **FAST)
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
    words = f"No combination reproduces all 1 published figures. The nearest is {best.name}: 0 of 1"
    assert words in result.verdict
    assert f"off by up to {match.steps:.0f} in the last printed digit" in result.verdict


def test_ranked_by_figures_then_by_distance() -> None:
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
def test_a_table_that_is_none(content: str, message: str, photos: Path, vaes: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "table.toml"
    table.write_text(content)
    with pytest.raises(BadInputError, match=message) as caught:
        calibrate(vaes, photos, published=table, output=tmp_path / "run", **FAST)
    assert str(table) in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_no_table_at_all(photos: Path, vaes: list[Path], tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none.toml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(BadInputError, match=message):
            calibrate(vaes, photos, published=path, output=tmp_path / "run", **FAST)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInputError, match="not a table of published figures"):
        calibrate(vaes, photos, published=tmp_path / "bytes.toml", output=tmp_path / "run", **FAST)


def test_a_vae_without_published_figures(
    measured: tuple[Path, object], photos: Path, vaes: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"no figures of three\.safetensors are published in .*only of one, two\."):
        calibrate([vaes[0], "three.safetensors"], photos, published=measured[0], output=tmp_path / "run", **FAST)
    with pytest.raises(UsageError, match="model cards for coco-val2017, only of kl-f8, ft-ema, ft-mse"):
        calibrate(vaes, photos, output=tmp_path / "run", **FAST)
    with pytest.raises(UsageError, match="no VAE named"):
        calibrate([], photos, published=measured[0], output=tmp_path / "run", **FAST)
    assert not (tmp_path / "run").exists()


def test_only_the_networks_of_the_figures(
    measured: tuple[Path, object], photos: Path, vaes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"no network called vgg16\. Needed: none"):
        calibrate(vaes, photos, published=measured[0], output=tmp_path / "run", networks={"vgg16": "x"}, **FAST)
    table = tmp_path / "table.toml"
    table.write_text("[one]\npsim = 0.92\n")
    with pytest.raises(NetworkError, match=r"vgg16.*553 MB"):
        calibrate(vaes[0], photos, published=table, output=tmp_path / "run", **FAST)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="not under torchrun"):
        calibrate(vaes, photos, published=measured[0], output=tmp_path / "run", **FAST)
    assert not (tmp_path / "run").exists()


def test_the_model_cards_serve_where_no_table_is_named(
    photos: Path, vaes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file called as a known VAE has that VAE's figures: rFID to two digits, PSNR to one, all four with spreads."""
    asked: list[tuple[str, ...]] = []

    def stop(preset: Preset, *_: object, **__: object) -> None:
        asked.append(preset.metrics)
        raise InterruptedError

    monkeypatch.setattr(calibration, "check_networks", stop)
    known = vaes[0].rename(tmp_path / "ft-mse.safetensors")
    try:
        with pytest.raises(InterruptedError):
            calibrate([known, "stabilityai/sdxl-vae", "KL-F8"], photos, output=tmp_path / "run", **FAST)
    finally:
        known.rename(vaes[0])
    assert asked == [("rfid", "psnr", "ssim_zero", "ssim_valid", "psim")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "calibrate needs the VAEs of the published table"), (["--vae", "kl-f8", "--network", "vgg16"], "NAME=FILE")],
)
def test_the_command_needs_a_vae_and_whole_options(arguments: list[str], message: str) -> None:
    from vaelens.cli.main import app

    with pytest.raises(UsageError, match=message):
        app(["calibrate", *arguments], standalone_mode=False)

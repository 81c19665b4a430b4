"""The measured verdict: a decoder's own images, other decoders', nobody's, and those that say too little."""

import importlib.util
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import vaelens as vl
from support.images.metadata_files import automatic1111, decoding_graph, node, png_with, written
from support.vaes import NARROW, random_vae
from vaelens.errors import CheckFailedError, UsageError
from vaelens.identification.images.decoder_fit import GOAL, ROUNDING, Fit, fit_decoder
from vaelens.identification.images.identified_image import identify_images
from vaelens.identification.images.verdict import calibration, conclude, detail_of, judge
from vaelens.images.writing import encode_png, from_uint8, to_pixels, to_uint8
from vaelens.runtime import Runtime
from vaelens.vae import VAE
from vaelens.weights.fingerprint import Digests

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "identifying-images.md"
TRIO = ("tiny-kl-f8", "tiny-ft-ema", "tiny-ft-mse")


@pytest.fixture(scope="module")
def trio() -> dict[str, VAE]:
    return {name: vl.load(name) for name in TRIO}


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return vl.read_image(ROOT / "examples" / "chelsea.png")[..., 60:124, 130:194].contiguous()


def stored(image: Tensor) -> Tensor:
    return from_uint8(to_uint8(image))


@pytest.mark.parametrize("name", TRIO)
def test_a_decoder_reproduces_its_own_image_and_no_other(name: str, trio: dict[str, VAE], photo: Tensor) -> None:
    image = stored(trio[name].reconstruct(photo, seed=0))
    found = judge(image, list(trio.values()), Runtime())
    assert found.vae == name, found.sentence
    with torch.no_grad():  # as callers may be
        assert judge(image, [trio[name]], Runtime()).fits[name] == found.fits[name]
    assert found.fits[name].error < 1.1 * ROUNDING
    assert all(fit.error > 2 * calibration().limit for other, fit in found.fits.items() if other != name)
    others = [vae for other, vae in trio.items() if other != name]
    assert judge(image, others, Runtime()).vae is None


@pytest.mark.parametrize("change", ["none", "cut off", "brightened", "blurred"])
def test_what_was_done_to_an_image(change: str, trio: dict[str, VAE], photo: Tensor) -> None:
    image = trio["tiny-ft-mse"].reconstruct(photo)
    changes: dict[str, Callable[[], Tensor]] = {
        "none": lambda: stored(image),
        "cut off": lambda: (image * 255).floor() / 255,  # as AUTOMATIC1111 and ComfyUI make bytes
        "brightened": lambda: stored((image * 1.1).clamp(0, 1)),
        "blurred": lambda: stored(torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)),
    }
    found = judge(changes[change](), list(trio.values()), Runtime())
    assert found.vae == ("tiny-ft-mse" if change in {"none", "cut off"} else None)


def test_an_image_of_no_decoder(trio: dict[str, VAE], photo: Tensor) -> None:
    found = judge(stored(photo), list(trio.values()), Runtime())
    assert found.vae is None
    assert found.sentence.startswith("Can't tell: none of the decoders named reproduces it")


def test_sizes_that_the_decoder_pads(trio: dict[str, VAE], photo: Tensor) -> None:
    image = stored(trio["tiny-ft-ema"].reconstruct(photo[..., :61, :59]))
    assert fit_decoder(trio["tiny-ft-ema"], image).error < 1.1 * ROUNDING


def fit(error: float) -> Fit:
    return Fit(error, 5.0, 20)


@pytest.mark.parametrize(
    ("errors", "detail", "pixels", "vae", "words"),
    [
        ((0.3, 3.0), 10, 10**5, "a", "a reproduces it (0.30 levels off"),
        ((3.0, 0.3), 10, 10**5, "b", "b reproduces it"),
        ((0.3, 0.31), 10, 10**5, None, "Can't tell which: a (0.30 levels off) and b (0.31 levels off)"),
        ((3.0, 2.0), 10, 10**5, None, "b comes within 2.00 levels"),
        ((0.3, 3.0), 1, 10**5, None, "so little detail"),
        ((0.3, 3.0), 10, 100, None, "100 pixels are too few"),
    ],
)
def test_what_is_concluded(
    errors: tuple[float, float], detail: float, pixels: int, vae: str | None, words: str
) -> None:
    found = conclude(dict(zip("ab", map(fit, errors), strict=True)), detail, pixels)
    assert found.vae == vae
    assert words in found.sentence
    assert json.loads(json.dumps(found.as_dict()))["reproduced_by"] == vae


def test_decoders_that_are_the_same_are_said_to_be() -> None:
    full, half, other = Digests("1", "2", "3"), Digests("2", "2", "4"), Digests("5", "6", "7")
    fits = {name: fit(0.3) for name in "abcd"}
    decoders = {"a": full, "b": other, "c": full, "d": other}
    said = conclude(fits, 10, 10**5, decoders).sentence
    assert said.endswith(" The decoders of a and c are identical. The decoders of b and d are identical.")
    said = conclude({name: fits[name] for name in "ac"}, 10, 10**5, {"a": full, "c": half}).sentence
    assert said.endswith(" The decoders of a and c hold the same weights, stored in different precisions.")
    assert conclude({name: fits[name] for name in "ab"}, 10, 10**5, decoders).sentence.endswith("reproduce it.")


def test_the_same_weights_named_twice(tmp_path: Path, trio: dict[str, VAE], photo: Tensor) -> None:
    copy = vl.load(trio["tiny-ft-ema"].save(tmp_path / "copy.safetensors"))
    found = judge(stored(trio["tiny-ft-ema"].reconstruct(photo)), [trio["tiny-ft-ema"], copy], Runtime())
    assert found.vae is None
    assert found.sentence.endswith(
        "The decoders of copy and tiny-ft-ema hold the same weights, stored in different precisions."
    )


def test_detail_is_what_an_eighth_of_the_size_doesnt_hold() -> None:
    flat, noise = torch.full((1, 3, 64, 64), 0.5), torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert detail_of(flat) < 1e-3
    assert detail_of(noise) == pytest.approx(255 / math.sqrt(12), rel=0.1)
    assert detail_of(torch.rand(1, 3, 7, 64)) == 0


def test_a_fit_leaves_the_vae_as_it_was(trio: dict[str, VAE], photo: Tensor) -> None:
    vae = random_vae()
    before = {name: tensor.clone() for name, tensor in vae.network.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in vae.network.parameters()]
    assert any(wanted)
    fit_decoder(vae, stored(photo[..., :16, :16]))
    assert all(before[name].equal(tensor) for name, tensor in vae.network.state_dict().items())
    assert [parameter.requires_grad for parameter in vae.network.parameters()] == wanted
    assert all(parameter.grad is None for parameter in vae.network.parameters())


def test_a_fit_tells_how_far_it_is_and_can_be_stopped(trio: dict[str, VAE], photo: Tensor) -> None:
    told: list[str] = []
    vae, image = trio["tiny-ft-ema"], stored(trio["tiny-ft-ema"].reconstruct(photo))
    whole = fit_decoder(vae, image, progress=told.append)
    assert len(told) > 2
    assert told[0].startswith("tiny-ft-ema: ")
    assert all(line.endswith(" levels off so far") for line in told)
    stopped = fit_decoder(vae, image, should_stop=lambda: True)
    assert stopped.passes == 1
    assert stopped.error == stopped.first == pytest.approx(whole.first)


def test_a_fit_that_cant_reach_its_goal_ends_early(trio: dict[str, VAE], photo: Tensor) -> None:
    own = fit_decoder(trio["tiny-ft-ema"], stored(trio["tiny-ft-ema"].reconstruct(photo)))
    nobodys = fit_decoder(trio["tiny-ft-ema"], stored(photo))
    assert own.error < GOAL < nobodys.error
    assert nobodys.passes < 30


def test_a_decoder_of_nan_is_refused(photo: Tensor) -> None:
    vae = random_vae(NARROW)
    with torch.no_grad():
        vae.network.decoder.conv_out.bias.fill_(math.nan)
    with pytest.raises(CheckFailedError, match="NaN"):
        fit_decoder(vae, stored(photo[..., :16, :16]))


def test_the_calibration_keeps_its_promise() -> None:
    """Fewer than 1 % false claims on the held-out images, and a limit with room on both sides."""
    record = json.loads((ROOT / "src/vaelens/identification/images/calibration.json").read_bytes())
    found = calibration()
    assert 1.2 * found.highest_own < found.limit < found.lowest_other / 1.2
    assert found.highest_own > ROUNDING
    assert record["held_out_images"] >= 100
    false = total = 0
    for row in record["held_out"]:
        total += sum(row["said"].values())
        false += sum(count for said, count in row["said"].items() if said not in {row["made_by"], "can't tell"})
    assert false < 0.01 * total
    assert record["held_out_alone"]["false"] < 0.01 * record["held_out_alone"]["of"]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("decoder_verdicts", ROOT / "embedded" / "decoder_verdicts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_calibration() -> None:
    record = json.loads((ROOT / "src/vaelens/identification/images/calibration.json").read_bytes())
    text = " ".join(PAGE.read_text("utf-8").split())
    for row in script().table(record):
        assert " ".join(row.split()) in text
    assert f"The limit is {record['limit']:g} levels." in text
    assert f"came within {record['highest_own']:g} levels" in text
    assert f"came nearer than {record['lowest_other']:g}." in text
    assert f"an image needs {record['least_detail']:g} levels of detail" in text
    assert f"have less than {record['least_detail']:g} levels of detail" in text
    alone = record["held_out_alone"]
    assert f"{alone['false']} of {alone['of']:,}" in text


@pytest.mark.slow
def test_a_smaller_table_is_like_the_calibrated_one(tmp_path: Path) -> None:
    module = script()
    part = module.PARTS["held-out"]
    module.measure(
        module.Part(9, part.photos, 4_000_000, (module.UNTOUCHED, "JPEG at 95"), in_turn=True),
        9,
        tmp_path / "rows.json",
    )
    rows = json.loads((tmp_path / "rows.json").read_bytes())["rows"]
    for row in module.confusion(rows, calibration()):
        assert set(row["said"]) <= {row["made_by"], module.CANT_TELL}, row
        if row["touch"] in module.SAVED and row["made_by"] != module.NOT_DECODED:
            assert row["said"].get(row["made_by"], 0) >= 1, row


def test_pixels_against_metadata(tmp_path: Path, trio: dict[str, VAE], photo: Tensor) -> None:
    text = {"parameters": automatic1111("tiny-ft-mse.safetensors", None)}
    pixels = to_pixels(trio["tiny-ft-ema"].reconstruct(photo))
    (tmp_path / "a.png").write_bytes(encode_png(pixels, text))
    (found,) = identify_images([tmp_path / "a.png"], list(trio.values()), Runtime())
    assert found.verdict is not None
    assert found.verdict.vae == "tiny-ft-ema"
    (sentence,) = found.contradictions
    assert sentence.startswith("The pixels are tiny-ft-ema's, but AUTOMATIC1111's web UI claims VAE tiny-ft-mse")
    assert sentence in list(found.lines())


def test_a_files_name_makes_no_contradiction(tmp_path: Path, trio: dict[str, VAE], photo: Tensor) -> None:
    """What the weights are counts: misnamed ones agree with a right claim, and contradict a wrong one."""
    misnamed = trio["tiny-ft-ema"].save(tmp_path / "tiny-ft-mse.safetensors")
    pixels = to_pixels(trio["tiny-ft-ema"].reconstruct(photo))
    sentences: list[tuple[str, ...]] = []
    for claimed in ("tiny-ft-ema", "tiny-ft-mse"):
        image = tmp_path / f"{claimed}.png"
        image.write_bytes(encode_png(pixels, {"parameters": automatic1111(f"{claimed}.safetensors", None)}))
        (found,) = identify_images([image], [misnamed], Runtime())
        assert found.verdict is not None
        assert (found.verdict.vae, found.verdict.known_as) == ("tiny-ft-mse", ("tiny-ft-ema",))
        sentences.append(found.contradictions)
    assert sentences[0] == ()
    (sentence,) = sentences[1]
    assert sentence.startswith("The pixels are tiny-ft-mse's (tiny-ft-ema by its weights), but AUTOMATIC1111's web UI")


def test_vaes_of_one_name_are_told_apart(tmp_path: Path, trio: dict[str, VAE], photo: Tensor) -> None:
    for folder, name in (("x", "tiny-ft-ema"), ("y", "tiny-ft-mse")):
        (tmp_path / folder).mkdir()
        trio[name].save(tmp_path / folder / "a.safetensors")
    (tmp_path / "a.png").write_bytes(encode_png(to_pixels(trio["tiny-ft-ema"].reconstruct(photo))))
    named = [tmp_path / "x" / "a.safetensors", tmp_path / "y" / "a.safetensors"]
    (found,) = identify_images([tmp_path / "a.png"], named, Runtime())
    assert found.verdict is not None
    assert (found.verdict.vae, list(found.verdict.fits)) == ("a", ["a", "y/a"])
    with pytest.raises(ValueError, match="names"):
        judge(stored(photo), [trio["tiny-ft-ema"], trio["tiny-ft-ema"]], Runtime())


def test_damaged_pixels_leave_the_claims(tmp_path: Path, trio: dict[str, VAE]) -> None:
    whole = png_with({"parameters": automatic1111("mine.pt", None)})
    (found,) = identify_images([written(tmp_path, whole[:-60])], [trio["tiny-ft-ema"]], Runtime())
    assert found.exit_code == 3
    lines = list(found.lines())
    assert "mine.pt" in lines[0]
    assert [line for line in lines if line.startswith("The file is cut off")]
    assert lines[-1] == str(found.error)


def test_claims_of_which_one_is_right_are_not_contradicted(tmp_path: Path, trio: dict[str, VAE], photo: Tensor) -> None:
    """A switch's inputs, or several nodes that save: the image is by one of them."""
    pixels = to_pixels(trio["tiny-ft-ema"].reconstruct(photo))
    for other, contradicted in (("tiny-ft-ema", False), ("tiny-kl-f8", True)):
        graph = decoding_graph(node("AnySwitch", input1=["41", 0], input2=["42", 0]))
        graph |= {"41": node("VAELoader", vae_name="tiny-ft-mse.pt"), "42": node("VAELoader", vae_name=f"{other}.pt")}
        (tmp_path / "a.png").write_bytes(encode_png(pixels, {"prompt": json.dumps(graph)}))
        (found,) = identify_images([tmp_path / "a.png"], [trio["tiny-ft-ema"]], Runtime())
        assert len(found.claims) == 2
        assert bool(found.contradictions) == contradicted


def test_a_decoder_that_enlarges_is_refused(photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = random_vae()
    monkeypatch.setattr(type(vae.spec.family), "decoded_factor", lambda _self, _config: 16)
    with pytest.raises(UsageError, match="another size"):
        fit_decoder(vae, stored(photo[..., :16, :16]))


def test_figures_of_the_text_are_the_codes() -> None:
    text = PAGE.read_text("utf-8")
    assert re.search(rf"{ROUNDING:.3f}", text)

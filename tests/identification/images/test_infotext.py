"""The settings line of AUTOMATIC1111, Forge, SD.Next and their imitators, in every place it is written to."""

import json
import time
from pathlib import Path

import pytest

from support.images.metadata_files import (
    COMMENTS,
    FORMATS,
    PNG_TEXTS,
    automatic1111,
    commented,
    forge,
    infotext,
    png_with,
    sd_next,
    written,
)
from vaelens.identification.images.claims import Claim
from vaelens.identification.images.infotext import read_infotext, settings
from vaelens.identification.images.metadata import read_metadata

MSE, MSE_HASH = "vae-ft-mse-840000-ema-pruned.safetensors", "735e4c3a44"
TRAP = (
    'a sign that says "VAE: wrong.pt", VAE hash: 0000000000\nSteps: 5, Sampler: x, VAE: wrong.pt, VAE hash: 1111111111'
)
NAMES = (
    MSE,
    "my, own: vae.pt",
    'with "quotes", and \\ more.pt',
    "日本語の VAE.safetensors",
    "é, ü.pt",
    "v=1; {x}.pt",
    "🎨,.pt",
)


def claim_of(text: str) -> Claim:
    found = read_infotext(text, "here")
    assert found is not None
    return found


def only_claim(path: Path) -> Claim:
    found = read_metadata(path)
    assert found.unread == ()
    assert len(found.claims) == 1, found.claims
    return found.claims[0]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read(name: str) -> None:
    found = claim_of(automatic1111(name, MSE_HASH))
    assert (found.vae, found.hash, found.checkpoint) == (name, MSE_HASH, "v1-5-pruned-emaonly")
    assert found.program == "AUTOMATIC1111's web UI"


@pytest.mark.parametrize("kind", PNG_TEXTS)
def test_every_kind_of_png_text(kind: str, tmp_path: Path) -> None:
    found = only_claim(written(tmp_path, png_with({"parameters": automatic1111(MSE, MSE_HASH)}, kind)))
    assert (found.vae, found.hash, found.place) == (MSE, MSE_HASH, "PNG text `parameters`")


@pytest.mark.parametrize("kind", COMMENTS)
@pytest.mark.parametrize("form", FORMATS)
def test_every_kind_of_exif_comment(form: str, kind: str, tmp_path: Path) -> None:
    name = "日本語の VAE.safetensors" if kind != "ascii" else MSE
    data = commented(automatic1111(name, MSE_HASH, prompt="城, 青い空"), form, kind)
    found = only_claim(written(tmp_path, data, f"image.{form.lower()}"))
    assert (found.vae, found.hash, found.place) == (name, MSE_HASH, "EXIF `UserComment`")


@pytest.mark.parametrize("prompt", ["{masterpiece}, a castle", '{"a castle"|"a house"}, sky', "{"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_prompt_that_begins_as_json_does(form: str, prompt: str, tmp_path: Path) -> None:
    found = only_claim(written(tmp_path, commented(automatic1111(MSE, MSE_HASH, prompt=prompt), form), "image"))
    assert (found.vae, found.hash) == (MSE, MSE_HASH)


def test_a_prompt_that_looks_like_settings_is_a_prompt() -> None:
    found = claim_of(automatic1111(MSE, MSE_HASH, prompt=TRAP, negative=TRAP))
    assert (found.vae, found.hash) == (MSE, MSE_HASH)
    assert not claim_of(automatic1111(None, None, prompt=TRAP)).is_statement


def test_a_quoted_setting_that_looks_like_others_is_one_setting() -> None:
    text = automatic1111(None, None, Hires_prompt='a, VAE: wrong.pt, VAE hash: 0000000000, "x", b')
    assert not claim_of(text).is_statement
    assert settings(text)["Hires prompt"] == 'a, VAE: wrong.pt, VAE hash: 0000000000, "x", b'


def test_a_last_line_with_fewer_than_three_settings_is_a_prompt() -> None:
    assert settings("a castle\nVAE: x.pt, VAE hash: 1234567890") == {}
    assert settings("a castle\nSteps: 1, VAE: x.pt, VAE hash: 1234567890")["VAE"] == "x.pt"
    assert read_infotext("just a caption: with a colon", "here") is None


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("Make: Canon, Model: EOS 5D, ISO: 100, Lens: 50mm", False),
        ("subject: a cat, style: oil, mood: happy", False),
        ("Sampler: Euler, Model: mine, Size: 512x512", True),
        ("Seed: 1, Model: mine, Size: 512x512", True),
        ("Model: mine, Size: 512x512, Version: v1.10.1", True),  # signed
    ],
)
def test_a_line_that_nobody_signed_holds_settings_of_sampling(line: str, read: bool) -> None:
    assert (read_infotext(line, "here") is not None) == read


def test_settings_agree_with_the_web_uis_own_expression() -> None:
    """Its documented expression for one setting, on what it writes."""
    import re

    expression = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    for name in NAMES:
        line = automatic1111(name, MSE_HASH, Hires_prompt="x, y: z", Lora_hashes="a: 1, b: 2").rpartition("\n")[2]
        expected = {key: json.loads(v) if v[:1] == '"' else v for key, v in expression.findall(line)}
        assert settings(line) == expected


def test_the_hash_that_the_civitai_extension_appends() -> None:
    hashes = {"vae": MSE_HASH, "lora:x": "aaaaaaaaaa", "model": "6ce0161689"}
    found = claim_of(automatic1111(None, None, Hashes=hashes))
    assert (found.vae, found.hash) == (None, MSE_HASH)
    assert claim_of(automatic1111(MSE, MSE_HASH, Hashes=hashes)).notes == ()
    other = claim_of(automatic1111(MSE, "63aeecb90f", Hashes=hashes))
    assert other.hash == "63aeecb90f"
    assert other.notes == (f"`VAE hash` is 63aeecb90f, but `Hashes` says {MSE_HASH}.",)


def test_what_decoded_in_the_vaes_place() -> None:
    found = claim_of(automatic1111(MSE, MSE_HASH, VAE_Decoder="TAESD"))
    assert (found.vae, found.hash) == ("TAESD", None)
    assert MSE in found.notes[0]
    assert claim_of(automatic1111(MSE, MSE_HASH, VAE_Decoder="Full")).vae == MSE


def test_forges_modules() -> None:
    found = claim_of(forge("clip_l", "ae", "t5xxl_fp16"))
    assert (found.program, found.vae, found.hash) == ("Forge", "ae", None)
    assert not claim_of(forge("ae", "another")).is_statement
    assert "clip_l" in claim_of(forge("clip_l")).notes[0]
    old = infotext("x", VAE_hash=MSE_HASH, VAE=MSE, Version="f0.0.17v1.8.0rc-latest-277-g0af28699")
    assert (claim_of(old).program, claim_of(old).vae) == ("Forge", MSE)


def test_sd_next() -> None:
    found = claim_of(sd_next("vae-ft-mse-840000-ema-pruned"))
    assert (found.program, found.vae, found.hash) == ("SD.Next", "vae-ft-mse-840000-ema-pruned", None)
    assert not claim_of(sd_next(None)).is_statement
    assert claim_of(sd_next("TAESD")).vae == "TAESD"


@pytest.mark.parametrize("vae", [None, "None", "Automatic", '""'])
def test_no_vae_is_no_statement(vae: str | None) -> None:
    found = claim_of(automatic1111(vae, None))
    assert not found.is_statement
    assert "names no VAE" in found.notes[0]


def test_hostile_lines_take_no_time() -> None:
    lines = [
        "a" * 10**6,
        "aa:" * 300_000,
        'aa: "' * 150_000,
        'aa: "\\", ' * 100_000,
        "aa: {" * 200_000,
        " -/" * 300_000,
    ]
    lines += ['aa: "' + "\\\\" * 400_000, 'aa: "b" c, ' * 90_000, "aa: {}{" * 100_000]
    start = time.perf_counter()
    for line in lines:
        settings(line)
    assert time.perf_counter() - start < 10  # a quadratic way would take hours

"""InvokeAI's and vaelens' own metadata, names against hashes, and metadata that are hostile."""

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.images.metadata_files import (
    PIXELS,
    automatic1111,
    comfyui_webp,
    commented,
    decoding_graph,
    exif_directory,
    node,
    png_with,
    written,
)
from support.images.written_files import saved
from support.mutated_json import mutated
from support.properties import MB, ROOM, Tally, examples
from vaelens.identification.images.agreement import compare
from vaelens.identification.images.claims import MOST_CLAIMS, Claim
from vaelens.identification.images.identified_image import IdentifiedImage, identify_images
from vaelens.identification.images.metadata import read_metadata
from vaelens.images.formats import exif
from vaelens.json_reading import parse_json
from vaelens.runtime import Runtime
from vaelens.weights.fingerprint import Content, Digests, Fingerprint, HalfContent
from vaelens.weights.recorded_contents import RecordedContent, known_fingerprint, record_content

EXAMPLE = Path(__file__).parents[3] / "examples" / "chelsea.png"

MSE = "vae-ft-mse-840000-ema-pruned.safetensors"
INVOKEAI_5 = {
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": "a castle, VAE: wrong.pt",
    "model": {"key": "1", "hash": "blake3:00", "name": "juggernautXL_v9", "base": "sdxl", "type": "main"},
    "vae": {"key": "2", "hash": "blake3:aa", "name": "sdxl-vae-fp16-fix", "base": "sdxl", "type": "vae"},
    "app_version": "5.4.2",
}
INVOKEAI_3 = {
    "generation_mode": "txt2img",
    "model": {"model_name": "stable-diffusion-v1-5", "base_model": "sd-1", "model_type": "main"},
    "vae": {"model_name": "sd-vae-ft-mse", "base_model": "sd-1"},
    "app_version": "3.4.0",
}
INVOKEAI_2 = {"model": "stable diffusion", "model_weights": "stable-diffusion-1.5", "app_id": "invoke-ai/InvokeAI"}


def identify_image(path: Path) -> IdentifiedImage:
    (found,) = identify_images([path], (), Runtime())
    return found


def claims_in(folder: Path, texts: dict[str, str]) -> tuple[Claim, ...]:
    found = read_metadata(written(folder, png_with(texts)))
    assert found.unread == ()
    return found.claims


def test_invokeai(tmp_path: Path) -> None:
    (claim,) = claims_in(tmp_path, {"invokeai_metadata": json.dumps(INVOKEAI_5)})
    expected = ("InvokeAI", "sdxl-vae-fp16-fix", "blake3:aa", "juggernautXL_v9")
    assert (claim.program, claim.vae, claim.hash, claim.checkpoint) == expected
    (claim,) = claims_in(tmp_path, {"invokeai_metadata": json.dumps(INVOKEAI_3)})
    assert (claim.vae, claim.checkpoint) == ("sd-vae-ft-mse", "stable-diffusion-v1-5")
    (claim,) = claims_in(tmp_path, {"invokeai_metadata": json.dumps(INVOKEAI_5 | {"vae": None})})
    assert (claim.vae, claim.own_vae, claim.checkpoint) == (None, True, "juggernautXL_v9")


def test_invokeai_before_3(tmp_path: Path) -> None:
    texts = {"sd-metadata": json.dumps(INVOKEAI_2), "Dream": '"a castle" -s 50 -S 1 -W 512 -H 512 -C 7.5 -A k_lms'}
    found = claims_in(tmp_path, texts)
    assert [(claim.is_statement, claim.checkpoint) for claim in found] == [
        (False, "stable-diffusion-1.5"),
        (False, None),
    ]


def test_our_own_images(tmp_path: Path) -> None:
    import vaelens as vl

    vl.generate("the letter R in red on white", "tiny-ft-ema", steps=1).save(tmp_path / "letter.png")
    (claim,) = identify_image(tmp_path / "letter.png").claims
    assert (claim.program, claim.vae, claim.checkpoint) == ("vaelens", "tiny-ft-ema", "tiny-sd")
    assert claim.fingerprint


def test_a_strip_names_each_of_its_vaes(tmp_path: Path) -> None:
    import vaelens as vl

    vl.reconstruct(EXAMPLE, ["tiny-ft-mse", "tiny-ft-ema"], max_side=64).save(tmp_path / "strip.png")
    found = identify_image(tmp_path / "strip.png")
    assert [claim.vae for claim in found.claims] == ["tiny-ft-mse", "tiny-ft-ema"]
    prints = [known_fingerprint(name) for name in ("tiny-ft-mse", "tiny-ft-ema")]
    assert [claim.digests for claim in found.claims] == prints
    assert [one and one.verdict for one in found.agreements] == ["agree", "agree"]


def test_a_sheet_of_very_many_vaes_gives_bounded_claims(tmp_path: Path) -> None:
    sheet = [{"vae": {"name": f"vae {number}"}} for number in range(1000)]
    found = claims_in(tmp_path, {"vaelens": json.dumps({"sheet": sheet})})
    assert len(found) == MOST_CLAIMS + 1
    assert found[-1].notes == ("968 more VAEs.",)


@pytest.mark.parametrize(
    ("name", "of", "verdict", "words"),
    [
        ("tiny-kl-f8", "tiny-kl-f8", "agree", "is the fingerprint of tiny-kl-f8."),
        ("tiny-kl-f8", "tiny-ft-mse", "contradict", "is a name of tiny-kl-f8, but"),
        ("tiny-kl-f8", None, "contradict", "the fingerprint of tiny-kl-f8 is another one"),
        ("mine", "tiny-ft-mse", "known fingerprint", "isn't a name that it is known under"),
        ("mine", None, "unknown fingerprint", "No known VAE is called mine; the fingerprint is of no VAE"),
        (MSE, None, "unknown fingerprint", "A name of ft-MSE; the fingerprint is of no VAE"),
        (None, "tiny-ft-mse", "known fingerprint", "is the fingerprint of tiny-ft-mse."),
        (None, None, "unknown fingerprint", "of no VAE that is known"),
    ],
)
def test_names_against_fingerprints(name: str | None, of: str | None, verdict: str, words: str) -> None:
    known = None if of is None else known_fingerprint(of)
    short = "0" * 12 + "-" + "1" * 12 if known is None else known.short
    found = compare(Claim("vaelens", "somewhere", name, fingerprint=short))
    assert found is not None
    assert found.verdict == verdict
    assert words in found.sentence


def test_a_fingerprint_of_a_copy_in_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path))
    known = known_fingerprint("tiny-ft-mse")
    assert known is not None
    bf16 = Fingerprint(*(Digests(half.bf16, "0" * 64, half.bf16) for half in (known.encoder, known.decoder)))
    found = compare(Claim("vaelens", "somewhere", "tiny-ft-mse", fingerprint=bf16.short))
    assert found is not None
    assert found.verdict == "agree"
    recorded = RecordedContent(
        "ft-mse", "kl", "0" * 64, Content(*(HalfContent(half, half.stored) for half in (bf16.encoder, bf16.decoder)))
    )
    record_content(recorded)
    whole = Fingerprint(*(Digests("2" * 64, "3" * 64, half.bf16) for half in (bf16.encoder, bf16.decoder)))
    agrees = compare(Claim("vaelens", "somewhere", MSE, fingerprint=whole.short, digests=whole))
    assert agrees is not None
    assert agrees.verdict == "agree"


@pytest.mark.parametrize(
    ("name", "digest", "verdict", "words"),
    [
        (MSE, "735e4c3a44", "agree", ["ft-MSE"]),
        (MSE, "735E4C3A", "agree", ["ft-MSE"]),
        (
            "vae-ft-mse-840000-ema-pruned",
            "735e4c3a447a3255760d7f86845f09f937809baa529c17370d83e4c3758f3c75",
            "agree",
            [],
        ),
        (MSE, "63aeecb90f", "contradict", [MSE, "ft-MSE", "63aeecb90f", "sdxl_vae.safetensors"]),
        (MSE, "sha256:735e4c3a44", "agree", []),
        ("MoistMix.vae.pt", "df3c506e51", "agree", ["kl-f8-anime2", "also passed on"]),
        ("Anything-V3.0.vae.pt", "df3c506e51", "known hash", ["kl-f8-anime2", "isn't a name that it is known under"]),
        ("sdxl_vae.safetensors", "551eac7037", "unknown hash", ["proves nothing"]),
        ("other.vae.pt", "551eac7037", "unknown hash", ["proves nothing", "isn't known"]),
        ("pony-xl-v6-vae.safetensors", "235745af8d", "agree", ["fp16 fix"]),
        ("C:\\models\\VAE\\SDXL_VAE.safetensors", "235745af8d", "agree", []),
        (MSE, None, "known name", ["proves nothing"]),
        ("mine.pt", None, "unknown name", ["mine.pt"]),
        (None, "735e4c3a44", "known hash", ["ft-MSE"]),
        (MSE, "blake3:aabbccdd", "nothing to compare", ["blake3"]),
        (MSE, "735e4c3", "nothing to compare", ["isn't the beginning"]),
        (MSE, "e6bb9ea85b", "contradict", ["unconfirmed"]),
        ("diffusion_pytorch_model.safetensors", "735e4c3a44", "known hash", []),
    ],
)
def test_names_against_hashes(name: str | None, digest: str | None, verdict: str, words: list[str]) -> None:
    found = compare(Claim("a program", "somewhere", name, digest))
    assert found is not None
    assert found.verdict == verdict
    for word in words:
        assert word in found.sentence


def test_a_claim_of_nothing_has_nothing_to_compare() -> None:
    assert compare(Claim("a program", "somewhere", own_vae=True)) is None


def test_what_is_shown(tmp_path: Path) -> None:
    found = identify_image(written(tmp_path, png_with({"parameters": automatic1111(MSE, "63aeecb90f")})))
    lines = list(found.lines())
    assert lines[0] == (
        f"AUTOMATIC1111's web UI claims (PNG text `parameters`): VAE {MSE}, hash 63aeecb90f, checkpoint "
        "v1-5-pruned-emaonly"
    )
    assert lines[1].strip().startswith("Name and hash contradict each other: ")
    assert found.contradictions == (lines[1].strip(),)
    assert json.loads(json.dumps(found.as_dict()))["claims"][0]["compared"]["verdict"] == "contradict"
    bare = identify_image(written(tmp_path, saved(PIXELS, "PNG")))
    assert list(bare.lines()) == ["no metadata that says anything about a VAE"]


def test_metadata_that_cant_be_read_are_named(tmp_path: Path) -> None:
    found = read_metadata(written(tmp_path, png_with({"prompt": '{"1": ', "parameters": automatic1111(MSE, None)})))
    assert found.unread == ("PNG text `prompt` can't be read: it is cut off, or isn't JSON from character 7 on.",)
    assert [claim.vae for claim in found.claims] == [MSE]


@pytest.mark.parametrize("prompt", ["a castle on a hill", "{masterpiece}, a castle", "", '["a castle"]'])
def test_a_plain_prompt_isnt_damaged_json(prompt: str, tmp_path: Path) -> None:
    assert claims_in(tmp_path, {"prompt": prompt}) == ()
    inside = json.dumps({"prompt": prompt, "steps": 20})
    found = read_metadata(written(tmp_path, commented(inside, "JPEG"), "a.jpg"))
    assert (found.claims, found.unread) == ((), ())


def test_graphs_behind_a_byte_order_mark(tmp_path: Path) -> None:
    graph = "\ufeff" + json.dumps(decoding_graph(node("VAELoader", vae_name=MSE)))
    (claim,) = claims_in(tmp_path, {"prompt": graph})
    assert claim.vae == MSE
    comment = "\ufeff" + json.dumps({"prompt": decoding_graph(node("VAELoader", vae_name="ae.sft"))})
    (claim,) = read_metadata(written(tmp_path, commented(comment, "JPEG"), "a.jpg")).claims
    assert claim.vae == "ae.sft"


def test_a_comment_of_damaged_json_is_named(tmp_path: Path) -> None:
    found = read_metadata(written(tmp_path, commented('{"prompt": {"1": ', "JPEG"), "a.jpg"))
    assert found.unread == ("EXIF `UserComment` can't be read: it is cut off, or isn't JSON from character 18 on.",)


def test_nan_is_none_where_it_is_allowed() -> None:
    assert parse_json("[NaN, -Infinity, 1]", nan=True) == [None, None, 1]
    with pytest.raises(ValueError, match="NaN"):
        parse_json("[NaN]")


DOCUMENTS: list[tuple[str, Any]] = [
    ("prompt", decoding_graph(node("VAELoader", vae_name=MSE), n20=node("Reroute", x=["10", 0]))),
    ("workflow", {"nodes": [{"id": 1, "type": "SaveImage", "inputs": [{"name": "images", "link": 1}]},
                            {"id": 2, "type": "VAEDecode", "mode": 0, "inputs": [{"name": "vae", "link": 2}]},
                            {"id": 3, "type": "VAELoader", "widgets_values": [MSE]}],
                  "links": [[1, 2, 0, 1, 0, "IMAGE"], [2, 3, 0, 2, 1, "VAE"]]}),
    ("invokeai_metadata", INVOKEAI_5),
    ("sd-metadata", INVOKEAI_2),
    ("vaelens", {"vae": {"name": "ft-mse", "weights": "abc"}, "provenance": {"model": {"name": "sd-v1-4"}}}),
    ("vaelens", {"sheet": [{"vae": {"name": "ft-mse"}}, {"vae": 3}]}),
]  # fmt: skip


@pytest.mark.properties
@examples(small=60, large=2000, whole=50_000)
@given(st.integers(0, 2**32), st.sampled_from(DOCUMENTS))
def test_damaged_json_is_read_or_named(tmp_path_factory: pytest.TempPathFactory, seed: int, document: Any) -> None:
    key, whole = document
    raw = mutated(whole, random.Random(seed))
    path = written(tmp_path_factory.getbasetemp(), png_with({key: raw.decode("utf-8", "replace")}))
    Tally("json").check(lambda: json.dumps([*identify_image(path).lines(), identify_image(path).as_dict()]), ROOM)


@pytest.mark.properties
@examples(small=60, large=2000, whole=50_000)
@given(st.text(max_size=300), st.text(max_size=60), st.sampled_from(["JPEG", "WEBP", "PNG"]))
def test_any_infotext_is_read(tmp_path_factory: pytest.TempPathFactory, line: str, name: str, form: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    text = (
        automatic1111(name.replace("\0", ""), line.replace("\0", ""), prompt=line).encode("utf-8", "replace").decode()
    )
    path = written(folder, commented(text, form), f"any.{form}")
    Tally("infotext").check(lambda: json.dumps([*identify_image(path).lines()]), ROOM)


@pytest.mark.properties
@examples(small=60, large=2000, whole=50_000)
@given(st.data())
def test_damaged_exif_data_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    graph = decoding_graph(node("VAELoader", vae_name=MSE))
    whole = bytearray(
        exif_directory([(0x0110, 2, f"prompt:{json.dumps(graph)}".encode()), (0x9286, 7, b"UNICODE\0a\0")])
    )
    for place in data.draw(st.lists(st.integers(6, 60), max_size=6)):
        whole[place] = data.draw(st.integers(0, 255))
    path = written(tmp_path_factory.getbasetemp(), saved(PIXELS, "JPEG", exif=bytes(whole)), "a.jpg")
    Tally("exif").check(lambda: json.dumps([*identify_image(path).lines()]), ROOM)


def test_a_directory_that_points_everywhere_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """Many entries that all name the same large text."""
    text = b"prompt:{" + b" " * 50_000
    entries = [(0x0100 + i, 2, text[:5]) for i in range(1000)]
    whole = bytearray(exif_directory(entries) + text)
    for i in range(1000):
        at = 6 + 10 + 12 * i
        whole[at + 4 : at + 12] = (50_000).to_bytes(4, "little") + (12_020).to_bytes(4, "little")
    path = written(tmp_path, saved(PIXELS, "PNG", exif=bytes(whole)))
    Tally("exif").check(lambda: read_metadata(path), 100 * MB)


@pytest.mark.parametrize(("tag", "kind"), [(0x927C, 7), (0x010E, 2), (0x9286, 7)])
def test_entries_of_exif_data_arent_copied_again_and_again(tag: int, kind: int) -> None:
    """65,535 entries of all of 4 MB: what isn't wanted isn't copied, and of one tag the first text counts."""

    class Counted(bytes):
        copied = 0

        def removeprefix(self, prefix: object, /) -> bytes:
            return self

        def __getitem__(self, place: Any) -> Any:
            part = super().__getitem__(place)
            Counted.copied += len(part) if isinstance(part, bytes) else 1
            return part

    entry = struct.pack("<HHII", tag, kind, 2**22, 0)
    data = Counted(b"II*\0\x08\0\0\0" + struct.pack("<H", 65_535) + entry * 65_535 + bytes(2**22))
    exif.texts(data)
    assert Counted.copied < exif.MAX_TEXT + 100


def test_a_webp_with_a_graph_and_a_png_with_several_programs(tmp_path: Path) -> None:
    graph = decoding_graph(node("VAELoader", vae_name=MSE))
    texts = {"parameters": automatic1111("other.pt", None), "prompt": json.dumps(graph)}
    assert [claim.vae for claim in claims_in(tmp_path, texts)] == ["other.pt", MSE]
    found = identify_image(written(tmp_path, comfyui_webp(graph, {}), "a.webp"))
    assert found.agreements[0] is not None
    assert found.agreements[0].verdict == "known name"

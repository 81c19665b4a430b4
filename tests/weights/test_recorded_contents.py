"""The contents of published files, recorded when one is first read."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import vaelens as vl
from support.commands import invoke
from support.known_vaes import World, made_world
from vaelens.files import checked_json, read_checked_json
from vaelens.weights import recorded_contents as recorded
from vaelens.weights.recorded_contents import known_fingerprint, recorded_contents
from vaelens.weights.registry import registry
from vaelens.weights.spec_sources import SPEC_KEY, metadata_text


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with made_world(tmp_path) as made:
        yield made


def test_the_first_reading_of_a_known_vae_records_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put_in_cache("ft-mse")
    assert known_fingerprint("ft-mse") is None
    vae = vl.load("ft-mse", device="cpu", offline=True)
    (one,) = recorded_contents()
    assert (one.vae, one.family, one.content.fingerprint) == ("ft-mse", "kl", vae.fingerprint)
    assert known_fingerprint("ft-mse") == vae.fingerprint
    monkeypatch.setattr(recorded, "record_content", lambda new: pytest.fail("recorded a second time"))
    vl.load("ft-mse", device="cpu", offline=True)


def test_a_published_file_under_any_name_records_its_vae(world: World) -> None:
    vl.load(world.write_published("sdxl", "renamed.safetensors"), device="cpu")
    assert [one.vae for one in recorded_contents()] == ["sdxl"]
    spec = {SPEC_KEY: metadata_text(registry().spec("kl-f8"))}
    vl.load(world.write("mine.safetensors", world.tensors["kl-f8"], layout="ldm", metadata=spec), device="cpu")
    assert [one.vae for one in recorded_contents()] == ["sdxl"]


def test_the_list_marks_what_is_not_yet_recorded(world: World) -> None:
    world.put_in_cache("ft-mse")
    vae = vl.load("ft-mse", device="cpu", offline=True)
    listed = json.loads(invoke("list", "--json").stdout)["vaes"]
    assert listed["ft-mse"]["fingerprint"] == vae.fingerprint.as_dict()
    assert listed["sdxl"]["fingerprint"] == "not yet recorded"
    assert listed["tiny-ft-mse"]["fingerprint"] == vl.load("tiny-ft-mse", device="cpu").fingerprint.as_dict()


@pytest.mark.parametrize("damage", ["cut", "other schema", "no object", "folder"])
def test_a_record_that_can_not_be_used_counts_as_none(world: World, damage: str, tmp_path: Path) -> None:
    vl.load(world.write_published("sdxl", "a.safetensors"), device="cpu")
    path = tmp_path / "vaelens-cache" / recorded.FILE
    before = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        other = checked_json({**read_checked_json(before), "schema": 99})
        path.write_bytes({"cut": before[:-9], "other schema": other, "no object": b"[]"}[damage])
    assert recorded_contents() == ()
    there = None if damage == "folder" else path.read_bytes()
    vl.load(world.write_published("sdxl", "b.safetensors"), device="cpu")
    if damage in {"cut", "no object"}:
        assert [one.vae for one in recorded_contents()] == ["sdxl"]
    else:
        vl.identify(world.write_published("ft-mse", "c.safetensors"))
        assert recorded_contents() == ()
        assert there is None or path.read_bytes() == there, "entries of another version were lost"


def test_without_a_writable_cache_a_vae_loads_as_ever(world: World, tmp_path: Path) -> None:
    (tmp_path / "vaelens-cache").write_text("a file where the folder would be")
    vl.load(world.write_published("sdxl", "a.safetensors"), device="cpu")
    assert recorded_contents() == ()

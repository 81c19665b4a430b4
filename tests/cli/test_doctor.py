"""`vaelens doctor`: devices, kernels, and one VAE through the engine beside its plain network."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from support.commands import invoke
from support.comparisons import face_photo
from support.vaes import TINY, random_vae
from vaelens.doctor import checks
from vaelens.kernels import library
from vaelens.kernels.paths import available_paths, choose_path


def test_doctor_checks_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    ran = invoke("doctor", "--json")
    found = json.loads(ran.stdout)
    assert found["healthy"] is True
    assert [t["difference"] for t in found["round_trips"] if (t["device"], t["dtype"]) == ("cpu", "float32")] == [0.0]
    assert found["hub"]["token"] is True
    assert "hf_secret" not in ran.stdout + ran.stderr
    assert "agrees with the CPU" in invoke("doctor").stdout


def test_doctor_shows_the_kernels_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(invoke("doctor", "--json").stdout)["kernels"]
    assert found["paths"] == available_paths()
    assert found["chosen"]["float32"] == choose_path(torch.float32, torch.device("cpu"))
    monkeypatch.setattr(library, "unavailable", lambda: "The native kernels weren't built, because of a test.")
    shown = invoke("doctor").stdout
    assert re.search(r"^kernels +torch$", shown, re.M)
    assert re.search(r"^no native kernels +The native kernels weren't built, because of a test\.$", shown, re.M)


def test_doctor_compares_a_vae_with_its_plain_network(vae_file: Path) -> None:
    found = json.loads(invoke("doctor", "--vae", vae_file, "--json").stdout)
    assert (found["path"], found["exact"]) == (choose_path(torch.float32, torch.device("cpu")), True)
    for half in (found["encode"], found["decode"]):
        assert 0 < half["plain_error"] < 1e-5
        assert 0 < half["error"] < 1e-3
    assert 0 < found["decode"]["difference"] < checks.EXACT
    shown = invoke("doctor", "--vae", vae_file, "--max-memory", "1GB").stdout
    assert all(word in shown for word in ("decode 256x256", "engine", "plain network", "error (fp64)"))


def test_doctor_says_why_a_vae_runs_as_it_is(tmp_path: Path) -> None:
    file = random_vae(TINY).save(tmp_path / "tiny.safetensors")
    ran = invoke("doctor", "--vae", file, "--space", "sd1", "--max-memory", "1GB")
    assert "path plain, because the engine runs AutoencoderKL networks" in ran.stdout
    assert "runs whole, whatever --max-memory says, because the engine runs AutoencoderKL networks" in ran.stderr


def test_doctor_refuses_a_vae_that_is_not_exact(vae_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "EXACT", 0.0)
    monkeypatch.delenv("VAELENS_KERNELS", raising=False)
    refused = invoke("doctor", "--vae", vae_file, code=7).stderr
    assert "a decoded pixel differs by" in refused
    assert "VAELENS_KERNELS=torch runs it by PyTorch's operations." in refused
    monkeypatch.setenv("VAELENS_KERNELS", "torch")
    assert "Leave VAELENS_KERNELS unset." in invoke("doctor", "--vae", vae_file, code=7).stderr
    assert "go with --vae" in invoke("doctor", "--max-memory", "1GB", code=2).stderr


@pytest.mark.parametrize("half", ["encode", "decode"])
def test_both_halves_have_to_be_exact(half: str) -> None:
    good = checks.Half(
        error=1e-6, plain_error=1e-6, difference=1e-6, seconds=1, plain_seconds=1, memory=1, plain_memory=1
    )
    bad = dataclasses.replace(good, error=2e-4, difference=2e-4)
    check = checks.VAECheck("a", "cpu", "float32", "amx", None, 256, None, good, good)
    assert check.exact
    assert not dataclasses.replace(check, **{half: bad}).exact
    assert dataclasses.replace(check, **{half: bad}, dtype="bfloat16").exact


def test_doctor_fails_when_a_device_disagrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks.TOLERANCES, "float32", -1.0)
    assert not checks.diagnose().healthy


def test_max_memory_reaches_the_vae_and_the_record(vae_file: Path, tmp_path: Path) -> None:
    photo = face_photo(tmp_path / "photo.png", 40, 36)
    for command in (("reconstruct", photo), ("compare", "--photo", photo)):
        out = tmp_path / command[0]
        invoke(*command, "--vae", vae_file, "--max-memory", "1GB", "-o", out)
        record = json.loads((out / "run.json").read_text())
        assert (record["settings"]["max_memory"], record["vaes"][0]["engine"]["max_memory"]) == (10**9, 10**9)
        refused = invoke(*command, "--vae", vae_file, "--max-memory", "1kB", "-o", tmp_path / "other", code=2)
        assert "needs at least" in refused.stderr
        wrong = invoke(*command, "--vae", vae_file, "--max-memory", "lots", "-o", tmp_path / "other", code=2)
        assert "max_memory (--max-memory) 'lots' is not an amount of memory" in wrong.stderr

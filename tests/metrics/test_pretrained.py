"""Reading the metric networks' weights: the real heads inside the lpips wheel, random trunks, and bad files."""

import io
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from support import oracles
from support.random_trunks import random_alexnet, random_heads, random_vgg16, write_trunks
from vaelens.errors import BadInputError, CheckFailedError, NetworkError, UnsafeFileError, UsageError, VaelensError
from vaelens.files import sha256_file
from vaelens.metrics import pretrained
from vaelens.metrics.lpips import LPIPSHeads, lpips
from vaelens.metrics.pretrained import load_networks, missing, network_files, read_network
from vaelens.metrics.psim import normalised
from vaelens.networks.alexnet import AlexNet
from vaelens.resources import full_precision

HEADS = Path(oracles.lpips.__file__).parent / "weights" / "v0.1"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no way to the network."""
    monkeypatch.setenv("VAELENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrained, "fetch_web", lambda file, runtime: real_fetch(file, replace(runtime, offline=True)))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


real_fetch = pretrained.fetch_web


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_the_published_heads_are_known_by_size_and_checksum_and_load(cache: Path) -> None:
    assert [entry.name for entry in missing(network_files())] == [*network_files()]
    for name, file in (("lpips-vgg", "vgg.pth"), ("lpips-alex", "alex.pth")):
        entry = network_files()[name]
        with pytest.raises(NetworkError, match=entry.file):
            read_network(name)
        shutil.copy(HEADS / file, cache / entry.file)
        network = read_network(name)
        assert (network.source, network.sha256) == ("published", sha256_file(HEADS / file))
    assert [entry.name for entry in missing(["vgg16", "lpips-vgg", "inception"], {"inception": Path("x")})] == ["vgg16"]


def test_the_learned_heads_measure_as_in_lpips() -> None:
    state = random_alexnet()
    x, y = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    learned = torch.load(HEADS / "alex.pth", map_location="cpu", weights_only=True)
    expected = oracles.lpips_model("alex", state, learned)(2 * x - 1, 2 * y - 1).flatten().double()
    heads = read_network("lpips-alex", HEADS / "alex.pth").module
    assert isinstance(heads, LPIPSHeads)
    with torch.device("meta"):
        network = AlexNet()
    network.load_state_dict(state, assign=True)
    measured = lpips(network(normalised(x)), network(normalised(y)), heads)
    torch.testing.assert_close(measured, expected, rtol=1e-6, atol=0)


def test_all_networks_load_from_paths(tmp_path: Path) -> None:
    paths = write_trunks(tmp_path / "trunks")
    assert missing(network_files(), paths) == []
    networks = load_networks(network_files(), paths)
    assert [*networks] == [*network_files()]
    for name, network in networks.items():
        assert (network.name, network.source, network.sha256) == (name, "given", sha256_file(paths[name]))
        assert not network.module.training
        floats = [t for t in (*network.module.parameters(), *network.module.buffers()) if t.is_floating_point()]
        assert all(t.dtype == torch.float32 and not t.requires_grad for t in floats)
        held = torch.load(paths[name], weights_only=True)
        assert all(torch.equal(tensor, held[key]) for key, tensor in network.module.state_dict().items() if key in held)


def test_a_file_may_be_half_precision_safetensors_with_its_classifier(tmp_path: Path) -> None:
    state = random_vgg16()
    classifier = {f"classifier.{i}.{kind}": torch.ones(2) for i in (0, 3, 6) for kind in ("weight", "bias")}
    file = tmp_path / "vgg.safetensors"
    save_file({key: tensor.half() for key, tensor in (state | classifier).items()}, file)
    module = read_network("vgg16", file).module
    file.write_bytes(b"")  # the tensors are copies
    key = "features.28.weight"
    assert torch.equal(module.state_dict()[key], state[key].half().float())


def test_every_missing_key_is_caught(tmp_path: Path) -> None:
    heads = random_heads(AlexNet.WIDTHS)
    for key in heads:
        path = saved({k: v for k, v in heads.items() if k != key}, tmp_path / "a.pth")
        with pytest.raises(BadInputError, match=rf"1 missing \({key}\)"):
            read_network("lpips-alex", path)


LAST = "lin4.model.1.weight"
BAD: dict[str, tuple[Callable[[dict[str, Any]], object], type[VaelensError], str]] = {
    "unexpected": (lambda s: s | {"lin5.model.1.weight": torch.ones(1)}, BadInputError, r"1 unexpected \(lin5"),
    "a number as name": (lambda s: s | {7: torch.ones(1)}, BadInputError, "a tensor in it has no name"),
    "misshapen": (lambda s: s | {LAST: torch.ones(1, 255, 1, 1)}, BadInputError, r"1 misshapen .*\[1, 255, 1, 1\] ins"),
    "integers": (lambda s: s | {LAST: s[LAST].long()}, BadInputError, "stored as I64"),
    "no tensor": (lambda s: s | {LAST: "no"}, BadInputError, r"1 missing \(lin4\.model\.1\.weight\)"),
    "without values": (lambda s: s | {LAST: s[LAST].to("meta")}, BadInputError, "lin4.*without numbers"),
    "sparse": (lambda s: s | {LAST: s[LAST].to_sparse()}, BadInputError, "lin4.*stored as sparse numbers"),
    "all of another network": (lambda s: random_heads((64, 128, 256, 512, 512)), BadInputError, "4 misshapen"),
    "a NaN": (lambda s: s | {LAST: s[LAST] * torch.nan}, CheckFailedError, "lin4.model.1.weight holds 256 values"),
    "an infinity": (lambda s: s | {LAST: s[LAST].clone().index_fill_(1, torch.tensor(0), torch.inf)}, CheckFailedError,
                    "holds 1 value that is NaN or infinite"),
    "a list": (lambda s: [*s.values()], BadInputError, "holds a list, not a table of tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_other_tensors_than_the_network_has(case: str, tmp_path: Path) -> None:
    change, kind, words = BAD[case]
    path = saved(change(random_heads(AlexNet.WIDTHS)), tmp_path / "heads.pth")
    with pytest.raises(kind, match=words) as caught:
        read_network("lpips-alex", path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_anywhere_is_damaged(legacy: bool, tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save(random_heads(AlexNet.WIDTHS), whole, _use_new_zipfile_serialization=not legacy)
    content, path = whole.getvalue(), tmp_path / "cut.pth"
    for length in range(1, len(content) - 1, 211):
        path.write_bytes(content[:length])
        with pytest.raises(BadInputError, match=r"cut\.pth"):
            read_network("lpips-alex", path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("w.pth", b"", "is empty"),
        ("w.pth", b"\n <!DOCTYPE html><html>log in</html>", "is an HTML page"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("w.pth", b"\x93\x00any bytes" * 99, "isn't a safetensors file"),
        ("w.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "is incomplete: 9 of at least 24 bytes"),
    ],
)
def test_something_else_is_named(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=words) as caught:
        read_network("lpips-alex", tmp_path / name)
    assert "weights_only" not in str(caught.value), "torch's advice to read the file anyway"


def test_no_file_and_no_such_network(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="No such file"):
        read_network("vgg16", tmp_path / "none.pth")
    with pytest.raises(BadInputError, match="is a folder, not a file of weights"):
        read_network("vgg16", tmp_path)
    for ask in (read_network, lambda n: missing([n]), lambda n: load_networks([], {n: HEADS / "vgg.pth"})):
        with pytest.raises(UsageError, match=r"no metric network is called 'vgg19'\. Known: inception, vgg16, alexnet"):
            ask("vgg19")


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("form", ["zip", "legacy", *range(pickle.HIGHEST_PROTOCOL + 1)])
def test_code_in_a_file_is_refused_and_never_runs(form: str | int, tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "code.pth"
    content = {"lin0.model.1.weight": Payload(mark)}
    if isinstance(form, int):
        path.write_bytes(pickle.dumps(content, protocol=form))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UnsafeFileError, match="nothing in it was run"):
        read_network("lpips-alex", path)
    assert not mark.exists()


def test_a_program_is_no_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "inception-2015-12-05.pt"
    with oracles.silence():
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(UnsafeFileError, match=r"is a TorchScript program, .* nothing in it was run"):
        read_network("inception", path)


def test_a_wrong_path_is_found_before_any_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "fetch_web", lambda *_, **__: pytest.fail("downloaded"))
    empty = saved({}, tmp_path / "empty.pth")
    with pytest.raises(BadInputError, match="5 missing"):
        load_networks(["vgg16", "lpips-vgg"], {"lpips-vgg": empty})


def fp32_parts() -> list[Any]:
    backends = torch.backends
    return [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]


def fp32_settings() -> list[str]:
    return [part.fp32_precision for part in fp32_parts()]


def measure_and_fail() -> None:
    with full_precision("cpu"):
        assert fp32_settings() == ["ieee"] * 4
        x = torch.rand(1, 1, 4, 4)
        assert torch.nn.functional.conv2d(x, x).dtype == torch.float32
        raise InterruptedError


def test_full_precision_turns_the_shortcuts_off_and_back() -> None:
    original = fp32_settings()
    torch.set_float32_matmul_precision("medium")
    try:
        before = fp32_settings()
        assert "ieee" not in before
        with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(InterruptedError):
            measure_and_fail()
        assert fp32_settings() == before
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
        for part, precision in zip(fp32_parts(), original, strict=True):
            part.fp32_precision = precision

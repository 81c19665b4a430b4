"""What torch.save writes is read as torch.load(weights_only=True) reads it: dtypes, views, shared storages, values."""

import io
import random
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.properties import examples
from vaelens.errors import BadInputError
from vaelens.tensors.formats import open_tensors
from vaelens.tensors.tensor_file import TensorFile

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
OTHERS = {
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.uint16: "U16", torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3",
}  # fmt: skip
FORMS = ["zip", "legacy"]


def opened(held: object, form: str, path: Path) -> TensorFile:
    torch.save(held, path, _use_new_zipfile_serialization=form == "zip")
    return open_tensors(path)


def random_state(rng: random.Random) -> dict[str, Any]:
    """Tensors of any shape and precision, whole and views, some sharing storage, some parameters; and other values."""
    bases = [torch.randn(rng.choice([1, 7, 60])).to(rng.choice(FLOATS)) for _ in range(3)]
    state: dict[str, Any] = {}
    for number in range(rng.randrange(1, 12)):
        base = rng.choice([*bases, torch.randn(rng.randrange(1, 40)).to(rng.choice(FLOATS))])
        choices = [base, base[len(base) // 3 :], base[::2], base[:1].expand(3), base[0], base.view(1, -1, 1)]
        if len(base) % 4 == 0:
            choices += [base.view(4, -1).t(), base.view(2, 2, -1).permute(2, 0, 1)]
        tensor = rng.choice(choices)
        state[f"a.{number}.weight"] = torch.nn.Parameter(tensor) if rng.random() < 0.2 else tensor
    state["epoch"] = rng.choice(
        [3, 2.5, None, True, "text", b"bytes", 2**70, (1, 2), {1, 2}, complex(1, 2), Counter("ab")]
    )
    return state


@pytest.mark.properties
@pytest.mark.parametrize("form", FORMS)
def test_random_state_dicts_are_read_as_torch_reads_them(form: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"

    @examples(small=60, large=600, whole=5_000)
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        rng = random.Random(seed)
        torch.manual_seed(seed)
        state = random_state(rng)
        file = opened(OrderedDict(state) if rng.random() < 0.5 else state, form, path)
        theirs = torch.load(path, weights_only=True)
        expected = {name: t for name, t in theirs.items() if isinstance(t, torch.Tensor)}
        found = file.read(file.shapes)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(found[name], tensor.detach())
            assert found[name].is_contiguous()

    check()


@pytest.mark.parametrize("form", FORMS)
def test_other_dtypes_are_named(form: str, tmp_path: Path) -> None:
    state = {str(dtype): torch.zeros(2).to(dtype) for dtype in OTHERS}
    file = opened(state, form, tmp_path / "a.pt")
    assert file.dtypes == {str(dtype): name for dtype, name in OTHERS.items()}
    for name in state:
        with pytest.raises(BadInputError, match=f"stored as {file.dtypes[name]}"):
            file.read([name])


@pytest.mark.parametrize("form", FORMS)
def test_empty_and_single_numbers(form: str, tmp_path: Path) -> None:
    file = opened({"none": torch.empty(0, 3), "one": torch.tensor(2.5)}, form, tmp_path / "a.pt")
    assert file.shapes == {"none": (0, 3), "one": ()}
    assert file.read(["one"])["one"].item() == 2.5
    with pytest.raises(BadInputError, match="none is empty"):
        file.read(["none"])


@pytest.mark.parametrize("form", FORMS)
def test_tensors_share_nothing_with_each_other_or_the_file(form: str, tmp_path: Path) -> None:
    base = torch.arange(8.0)
    file = opened({"a": base, "b": base, "c": base[2:4]}, form, tmp_path / "a.pt")
    before = file.path.read_bytes()
    first = file.read(["a", "b", "c"])
    for tensor in first.values():
        tensor.fill_(7)
    assert file.path.read_bytes() == before
    assert torch.equal(file.read(["c"])["c"], base[2:4])
    assert len({tensor.untyped_storage().data_ptr() for tensor in first.values()}) == 3


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        file = opened({"a": torch.ones(3)}, "zip", tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(file.read(["a"])["a"], torch.ones(3))


def test_a_flipped_bit_is_noticed_when_its_tensor_is_read(tmp_path: Path) -> None:
    file = opened({"a": torch.ones(3), "b": torch.zeros(5)}, "zip", tmp_path / "a.pt")
    content = bytearray(file.path.read_bytes())
    content[content.index(b"\0\0\x80\x3f" * 3)] ^= 1
    file.path.write_bytes(content)
    file = open_tensors(file.path)
    assert torch.equal(file.read(["b"])["b"], torch.zeros(5))
    with pytest.raises(BadInputError, match="its checksum of storage 0 is wrong"):
        file.read(["a"])


def test_large_tensors_that_share_one_small_storage_are_refused(tmp_path: Path) -> None:
    file = opened({str(i): torch.ones(1).expand(1000, 1000) for i in range(9)}, "zip", tmp_path / "a.pt")
    with pytest.raises(BadInputError, match="share storages, and would take more"):
        file.read(file.shapes)


def test_a_pickled_table_without_storages_holds_no_tensors(tmp_path: Path) -> None:
    out = io.BytesIO()
    torch.save({"a": torch.ones(1)}, out)
    (tmp_path / "a.pt").write_bytes(b"\x80\x02}q\x00.")
    assert open_tensors(tmp_path / "a.pt").shapes == {}

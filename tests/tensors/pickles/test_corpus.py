"""The fuzzer's seeds and findings (tests/fuzz/pickle_reader.py) end with tensors or with the reader's own errors."""

from pathlib import Path

import pytest

from support.hostile.parts import as_zip
from vaelens.tensors.pickles.budget import Budget
from vaelens.tensors.pickles.pickled_bytes import read_pickled
from vaelens.tensors.pickles.refusals import UnsafePickleError, WrongPickleError

CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"
READ = {"zip", "legacy", "plain-0", "plain-1", "plain-2", "plain-3", "plain-4", "plain-5"}  # honest, and whole


@pytest.mark.parametrize("name", [path.name for path in sorted(CORPUS.iterdir())])
def test_each_seed_ends_as_it_should(name: str) -> None:
    content = (CORPUS / name).read_bytes()
    if name in READ:
        tensors, _ = read_pickled(content, Budget(len(content)), is_zip=content.startswith(b"PK"))
        assert (len(tensors) == 4) == (name in {"zip", "legacy"})
        return
    for whole in (content, as_zip(content)):
        expected = UnsafePickleError if name.startswith("code") else (WrongPickleError, UnsafePickleError)
        with pytest.raises(expected):
            read_pickled(whole, Budget(len(whole)), is_zip=whole.startswith(b"PK"))


def test_there_are_seeds() -> None:
    assert {path.name for path in CORPUS.iterdir()} >= READ

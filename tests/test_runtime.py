"""Where a call runs: devices and dtypes by their names."""

import pytest
import torch

from vaelens.errors import UsageError
from vaelens.resources import using_threads
from vaelens.runtime import Runtime, find_dtype


@pytest.mark.parametrize(("short", "full"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")])
def test_short_names_of_dtypes_are_recorded_in_full(short: str, full: str) -> None:
    assert find_dtype(short) == find_dtype(full) == getattr(torch, full)
    assert Runtime.of(device="cpu", dtype=short) == Runtime.of(device="cpu", dtype=full)
    assert Runtime().using(short).dtype_name == full


@pytest.mark.parametrize("count", [0, -1, 99_999, 10**30])
def test_a_number_of_threads_that_would_crash_the_process_is_refused(count: int) -> None:
    before = torch.get_num_threads()
    with pytest.raises(UsageError, match=f"--threads {count}: a number from 1 to"), using_threads(count):
        pytest.fail("the context was entered")
    assert torch.get_num_threads() == before


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean float16"):
        Runtime.of(dtype="float15")

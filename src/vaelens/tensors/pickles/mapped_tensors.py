"""The numbers of tensors that a pickled file describes: mapped from the file where they lie as torch needs them."""

import mmap
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from vaelens.tensors.pickles.refusals import WrongPickleError
from vaelens.tensors.pickles.values import ITEM_BYTES, Storage, StoredTensor
from vaelens.tensors.pickles.zip_records import Record, check_crc

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
COPIES = 2**20  # bytes of tensors that may be larger than their storages, as an expanded number is


def read_mapped(path: Path, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, none sharing memory with another; each storage's checksum is compared.

    A contiguous tensor at an aligned place is the file's own memory, mapped privately: the system reads what is used,
    and writing doesn't change the file. Other contiguous ones are read, so that they don't count twice, as the mapped
    file and as its copy; views with gaps are copied from the mapped file. Dtypes are those of `DTYPES`, and
    none is empty.
    Raises WrongPickleError for a wrong checksum, and where copies would take more memory than the file; OSError.
    """
    with path.open("rb") as file:
        return _read(file, stored)


def _read(file: BufferedReader, stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    seen: set[Storage] = set()
    copied = 0
    found: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        storage = tensor.storage
        assert storage is not None
        assert storage.place is not None
        is_first = storage not in seen
        if is_first:
            seen.add(storage)
            _check(mapped, storage)
        width, place = ITEM_BYTES[tensor.dtype], storage.place + tensor.begin
        is_mapped = is_first and not place % width and tensor.is_contiguous
        if not is_mapped:
            copied += tensor.elements * width
        if copied > len(mapped) + COPIES:
            raise WrongPickleError(f"its tensors share storages, and would take more than its {len(mapped):,} bytes")
        if tensor.is_contiguous and not is_mapped:
            found[name] = _contiguous(file, tensor, place)
            continue
        flat = torch.frombuffer(mapped, dtype=DTYPES[tensor.dtype], count=tensor.extent, offset=place)
        shaped = flat.as_strided(tensor.shape, tensor.stride)
        found[name] = shaped if is_mapped else shaped.clone(memory_format=torch.contiguous_format)
    return found


def _contiguous(file: BufferedReader, tensor: StoredTensor, place: int) -> Tensor:
    flat = torch.empty(tensor.elements, dtype=DTYPES[tensor.dtype])
    file.seek(place)
    if file.readinto(flat.view(torch.uint8).numpy().data) != flat.nbytes:
        raise WrongPickleError("it was changed while it was read")
    return flat.view(tensor.shape)


def _check(mapped: mmap.mmap, storage: Storage) -> None:
    assert storage.place is not None
    if storage.place + storage.size > len(mapped):
        raise WrongPickleError("it was changed while it was read")
    check_crc(mapped, Record(storage.place, storage.size, storage.crc), f"storage {storage.key}")

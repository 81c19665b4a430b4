"""A file of tensors, opened: names, shapes and dtypes immediately, values when they are read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vaelens.errors import BadInputError
from vaelens.resources import out_of_memory
from vaelens.tensors.checks import check_finite
from vaelens.tensors.pickles.mapped_tensors import read_mapped
from vaelens.tensors.pickles.refusals import WrongPickleError
from vaelens.tensors.pickles.values import StoredTensor
from vaelens.text.paths import unreadable

DTYPES = {"F64", "F32", "F16", "BF16"}  # as the safetensors format names them


@dataclass(frozen=True)
class TensorFile:
    """A checked file: shapes and dtypes by name, and its metadata.

    `pickled` says where the tensors of a pickled file lie in it, None for safetensors; `dropped` names what such a file
    holds beside them: classes and functions that vaelens doesn't know, training's tables. `shards` says which file each
    tensor lies in where `path` is an index of several.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    pickled: Mapping[str, StoredTensor] | None = None
    shards: Mapping[str, Path] | None = None
    dropped: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors."""
        return (self.path,) if self.shards is None else tuple(dict.fromkeys(self.shards.values()))

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The named tensors on the CPU, in their stored dtype, each checked to be finite.

        Raises BadInputError for a dtype that weights don't come in, an empty tensor and a damaged file;
        CheckFailedError, naming the tensor, for a NaN or infinity; ResourceError where memory runs out.
        """
        names = list(names)
        for name in names:
            if self.dtypes[name] not in DTYPES:
                raise BadInputError(
                    f"{self.path}: {name} is stored as {self.dtypes[name]}; weights are read from "
                    f"{', '.join(sorted(DTYPES))}. Convert the file first."
                )
            if 0 in self.shapes[name]:
                raise BadInputError(
                    f"{self.path}: {name} is empty, {list(self.shapes[name])}. Download the file again."
                )
        with out_of_memory(f"{self.path}: not enough memory to read it. Close other programs, try again."):
            tensors = self._safetensors(names) if self.pickled is None else self._pickled(names)
            for name, tensor in tensors.items():
                check_finite(name, tensor, self.path)
        return tensors

    def _pickled(self, names: Sequence[str]) -> dict[str, Tensor]:
        assert self.pickled is not None
        try:
            return read_mapped(self.path, {name: self.pickled[name] for name in names})
        except WrongPickleError as error:
            raise BadInputError(f"{self.path} is damaged: {error}. Download it again.") from error
        except (OSError, ValueError) as error:  # it shrank to nothing
            raise unreadable(self.path, error) from error

    def _safetensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for path in self.files:
            held = [name for name in names if self.shards is None or self.shards[name] == path]
            try:
                with cast(Any, safe_open(path, framework="pt", device="cpu")) as opened:
                    found |= {name: opened.get_tensor(name) for name in held}
            except (SafetensorError, OSError) as error:
                raise BadInputError(f"{path}: damaged safetensors file: {error}. Download it again.") from error
        return {name: found[name] for name in names}

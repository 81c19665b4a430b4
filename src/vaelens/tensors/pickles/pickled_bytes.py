"""From a pickled file's bytes to the table of its tensors: all of the reader that needs neither torch nor a file."""

from vaelens.tensors.pickles.budget import Budget
from vaelens.tensors.pickles.byte_source import ByteSource, Mapped
from vaelens.tensors.pickles.legacy_stream import read_stream
from vaelens.tensors.pickles.machine import Machine
from vaelens.tensors.pickles.state_tables import tensors_of
from vaelens.tensors.pickles.storages import in_archive
from vaelens.tensors.pickles.values import StoredTensor
from vaelens.tensors.pickles.zip_records import read_archive


def read_pickled(data: Mapped, budget: Budget, *, is_zip: bool) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """The tensors of a file's bytes by name, and the names of what isn't tensors: placeholders, training's tables.

    Raises WrongPickleError and UnsafePickleError.
    """
    met: dict[str, None] = {}
    if is_zip:
        archive = read_archive(data, budget)
        record = archive.data
        source = ByteSource(data, record.place, record.place + record.size)
        held = Machine(source, budget, met, in_archive(archive).load).read()
    else:
        held = read_stream(ByteSource(data), budget, met)
    tensors, left_out = tensors_of(held, budget)
    return tensors, (*met, *left_out)

"""What training programs put around a network, and so into the names of its tensors, and what they save beside it."""

from collections.abc import Iterable, Mapping

from vaelens.families.family import Family

# Of torch.compile; of DataParallel and FSDP; of a training program's table, flattened. Anywhere in a name, also twice.
WRAPPERS = {"_orig_mod", "module", "state_dict"}


def unwrapped(name: str) -> str:
    """The name without wrappers."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def unwrapped_names(names: Iterable[str]) -> dict[str, str]:
    """Each tensor's name as it stands in the file, by its name without wrappers.

    Raises ValueError where two tensors would have one name.
    """
    found: dict[str, str] = {}
    for name in names:
        inner = unwrapped(name)
        if inner in found:
            raise ValueError(f"{found[inner]} and {name} are two names for one tensor")
        found[inner] = name
    return found


def training_state(shapes: Mapping[str, tuple[int, ...]], family: Family) -> list[str]:
    """The names of single numbers outside the network, as `epoch` and `global_step`: none is a weight."""
    parts = family.encoder_parts | family.decoder_parts
    return [n for n, shape in shapes.items() if n.split(".")[0] not in parts and all(size == 1 for size in shape)]

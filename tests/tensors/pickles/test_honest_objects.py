"""What programs save beside weights is read, and named where it is dropped: each object pickled by Python itself."""

import argparse
import copyreg
import datetime
import enum
import functools
import importlib
import logging
import re
import sys
import types
import typing
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from vaelens.tensors.formats import open_tensors
from vaelens.tensors.pickles import named_globals
from vaelens.tensors.pickles.refusals import UnsafePickleError


class Color(enum.Enum):
    """An option of a training program."""

    RED = 1
    BLUE = "blue"


class ByName(enum.Enum):
    """As Python 3.11 pickles members at first: by getattr."""

    RED = 1

    def __reduce_ex__(self, proto: object) -> Any:
        return getattr, (type(self), self.name)


class Settings:
    """A configuration, with a method that may be handed on."""

    def __init__(self) -> None:
        self.rate, self.kind = 0.1, typing.Any

    def make(self) -> None:
        """Nothing."""


class OldSettings:
    """As protocols 0 and 1 pickle any object: by copyreg."""

    def __reduce__(self) -> Any:
        return copyreg._reconstructor, (OldSettings, object, None), {"rate": 0.1}  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportAttributeAccessIssue, reportUnknownVariableType]


MINE = f"{__name__}."
NETWORK = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.SiLU(), torch.nn.GroupNorm(1, 1))
OPTIMIZER = torch.optim.AdamW(NETWORK.parameters())
# Each object, and a name that is dropped with it; None where it is data, and nothing is dropped.
OBJECTS: dict[str, tuple[object, str | None]] = {
    "a member by its class": (Color.BLUE, f"{MINE}Color"),
    "a member by its name": (ByName.RED, f"{MINE}ByName.RED"),
    "a method of an object": (Settings().make, f"{MINE}Settings.make"),
    "a method of a class": (Settings.make, f"{MINE}Settings"),
    "an object": (Settings(), "typing.Any"),
    "an object of an old protocol": (OldSettings(), f"{MINE}OldSettings"),
    "arguments": (argparse.Namespace(rate=0.1, kinds=[dict, int, typing.Any]), "argparse.Namespace"),
    "a namespace": (types.SimpleNamespace(a=1), "types.SimpleNamespace"),
    "times": (
        [datetime.datetime(2022, 8, 22, tzinfo=datetime.UTC), datetime.timedelta(1)], "datetime.datetime",
    ),
    "a path": (PurePosixPath("a"), "pathlib.PurePosixPath"),
    "a regular expression": (re.compile("a"), "re._compile"),
    "a logger": (logging.getLogger("train"), "logging.getLogger"),
    "an exception": (ValueError("a"), None),
    "containers": ([OrderedDict(a=1), defaultdict(list, a=[1]), Counter("ab"), deque([1]), {1}, frozenset("a")], None),
    "other data": ([1 + 2j, range(3), slice(1), b"a", bytearray(b"a"), ..., type(None), NotImplemented], None),
    "a partial": (functools.partial(torch.nn.functional.gelu, approximate="tanh"), "functools.partial"),
    "numpy scalars": ([np.float64(1), np.int64(2), np.bool_(True)], None),
    "numpy dates": (np.datetime64("2022-08-22"), None),
    "numpy types": ([np.float64, np.float32, np.dtype("f4")], "numpy.float64"),
    "numpy arrays": ([np.zeros(3), np.array(["a", None], object), np.asfortranarray(np.eye(2))], "numpy.ndarray"),
    "a masked array": (np.ma.array([1, 2]), "numpy.ma.core._mareconstruct"),
    "a record array": (np.rec.array([(1, 2.0)], dtype=[("a", int), ("b", float)]), "numpy.rec.recarray"),
    "numpy's generators": (
        [np.random.default_rng(1), np.random.RandomState(1)], "numpy.random._pickle.__generator_ctor",
    ),
    "numpy's state": (np.random.RandomState(1).get_state(), None),
    "numpy functions": ([np.mean, np.add], "numpy.mean"),
    "torch functions": ([torch.nn.functional.silu, torch.nn.init.xavier_uniform_], "torch.nn.functional.silu"),
    "torch's built-in functions": ([torch.relu, torch.nn.functional.gelu], "torch._C._VariableFunctionsClass.relu"),
    "torch's values": ([torch.device("cpu"), torch.half, torch.Size([1]), torch.strided, torch.finfo], "torch.finfo"),
    "torch's version": (torch.__version__, "torch.torch_version.TorchVersion"),
    "a generator of torch": (torch.Generator(), "torch._C.Generator"),
    "a whole network": (NETWORK, "torch.nn.modules.container.Sequential"),
    "an optimizer": (OPTIMIZER, "torch.optim.adamw.AdamW"),
    "its state": (OPTIMIZER.state_dict(), None),
    "a schedule": (torch.optim.lr_scheduler.StepLR(OPTIMIZER, 3), "torch.optim.lr_scheduler.StepLR"),
    "a gradient scaler": (torch.amp.GradScaler("cpu"), "torch.amp.grad_scaler.GradScaler"),
    "a loader": (torch.utils.data.DataLoader([1, 2]), "torch.utils.data._utils.collate.default_collate"),
    "a distribution": (torch.distributions.Normal(0.0, 1.0), "torch.distributions.normal.Normal"),
    "a sparse tensor's kind": (torch.eye(2).to_sparse().layout, None),
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", OBJECTS)
def test_what_programs_save_is_read(name: str, protocol: int, tmp_path: Path) -> None:
    held, dropped = OBJECTS[name]
    path = tmp_path / "a.ckpt"
    torch.save({"w": torch.ones(2), "extra": {"held": held}}, path, pickle_protocol=protocol)
    opened = open_tensors(path)
    assert opened.read(["w"])["w"].tolist() == [1, 1]
    if dropped is None:
        assert all(one.startswith("numpy.") for one in opened.dropped)
    else:
        assert dropped in opened.dropped or f"{dropped}.make" in opened.dropped


def test_a_memory_format_is_read(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "form": torch.channels_last}, tmp_path / "a.pt", pickle_protocol=4)
    assert open_tensors(tmp_path / "a.pt").dropped[0].endswith("torch.channels_last")


FUNCTIONS = {
    "re._compile",
    "logging.getLogger",
    "copyreg._reconstructor",
    "copyreg.__newobj__",
    "copyreg.__newobj_ex__",
}


@pytest.mark.parametrize("name", ["collections", "collections.abc", "typing", "enum", "copyreg", "numbers", "functools",
    "logging", "random", "inspect", "re", "types", "datetime", "decimal", "fractions", "uuid", "pathlib", "argparse",
    "dataclasses", "builtins"])  # fmt: skip
def test_of_the_standard_library_only_types_are_dropped(name: str) -> None:
    """What this Python has under the names that are let through: no module, and no function but the five that rebuild
    data.
    """
    module = importlib.import_module(name)
    for one in dir(module):
        if is_let_through(f"{name}.{one}") and f"{name}.{one}" not in FUNCTIONS:
            held = getattr(module, one)
            assert not isinstance(held, (types.ModuleType, types.FunctionType, types.BuiltinFunctionType)), one


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_no_module_of_torch_and_numpy_is_dropped(library: str) -> None:
    """Of the modules that are loaded: by a module's name, any function in it could be reached."""
    for name, module in sorted(sys.modules.items()):
        if name.split(".")[0] == library:
            # By `type`: some of torch's objects warn when they are looked at.
            modules = [one for one, held in vars(module).items() if issubclass(type(held), types.ModuleType)]
            assert [one for one in modules if is_let_through(f"{name}.{one}")] == []


def is_let_through(name: str) -> bool:
    """Whether a pickle may name it."""
    try:
        named_globals.placeholder(name, {})
    except UnsafePickleError:
        return False
    return True

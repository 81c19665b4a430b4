"""Whether the modules of a network are as they were when they were examined: a tenth of the time of examining them.

What is looked at is what a program can set on a module, but for parameters and buffers. Nothing of the network is kept
alive by it.
"""

import operator
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from vaelens.networks.memory_saving import HOOKS


class _Module(NamedTuple):
    reference: "weakref.ref[nn.Module]"
    kind: type[nn.Module]
    size: int  # of its attributes
    get: Callable[[dict[str, Any]], tuple[object, ...]]
    values: tuple[object, ...]  # those that `get` gives of its attributes
    children: tuple[int, ...]

    @classmethod
    def of(cls, module: nn.Module) -> "_Module":
        attributes = vars(module)
        # Dictionaries hold hooks, children and parameters. A module always has three other attributes at least.
        names = [name for name, value in attributes.items() if not isinstance(value, dict | Tensor | nn.Module)]
        get: Callable[[dict[str, Any]], tuple[object, ...]] = operator.itemgetter(*names)
        return cls(weakref.ref(module), type(module), len(attributes), get, get(attributes), _children(module))

    def is_same(self) -> bool:
        module = self.reference()
        if type(module) is not self.kind or module is None:
            return False
        attributes = vars(module)
        if len(attributes) != self.size or any(map(attributes.get, HOOKS)):
            return False
        return _children(module) == self.children and all(map(operator.is_, self.get(attributes), self.values))


class ExaminedModules:
    """The modules inside a network, without hooks, as they are now. Attributes are the same where they are identical.

    Of the network itself it is only the modules that count.
    """

    def __init__(self, network: nn.Module) -> None:
        self._children = _children(network)
        self._inner = [_Module.of(module) for module in network.modules() if module is not network]

    def are_those_of(self, network: nn.Module) -> bool:
        """Whether nothing was added, removed or set since, and no hook is there."""
        try:
            return _children(network) == self._children and all(one.is_same() for one in self._inner)
        except KeyError:  # an attribute is gone
            return False


def _children(module: nn.Module) -> tuple[int, ...]:
    """Their identities, which are another module's only once they are gone."""
    return tuple(map(id, vars(module)["_modules"].values()))

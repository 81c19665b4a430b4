"""Which calls are captured as graphs, and when graphs are dropped: with graphs that are made of nothing but a call."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from support.vaes import CONFIGS, random_network, relative
from vaelens.engine.gpu import whole_network
from vaelens.engine.gpu.graphs import KEPT, Graphs
from vaelens.engine.gpu.ways import Way

GRAPHS = Way(graphs=True)
Function = Callable[[Tensor], Tensor]


@dataclass
class Captured:
    """A graph of the call as it was captured."""

    function: Function
    held_bytes: int
    replays: int = 0

    def replay(self, image: Tensor) -> Tensor:
        self.replays += 1
        return self.function(image)


@dataclass
class Captures:
    """What captures; each graph holds `size` bytes. Fails with `error` where there is one."""

    size: int = 10
    error: str | None = None
    made: list[Captured] = field(default_factory=list)

    def __call__(self, function: Function, image: Tensor) -> Captured:
        if self.error:
            raise RuntimeError(self.error)
        self.made.append(Captured(function, self.size))
        return self.made[-1]


def call(graphs: Graphs, key: int, said: list[str] | None = None) -> float:
    return graphs.run(key, lambda x: x + key, torch.zeros(1), (said if said is not None else []).append).item()


def test_a_shape_is_captured_when_it_comes_again() -> None:
    captures = Captures()
    graphs = Graphs(captures, 100)
    assert [call(graphs, 1), call(graphs, 2), len(captures.made)] == [1, 2, 0]
    assert [call(graphs, 1), call(graphs, 1), len(captures.made), captures.made[0].replays] == [1, 1, 1, 2]


def test_those_used_last_are_kept() -> None:
    captures = Captures()
    graphs = Graphs(captures, 1000)
    for key in [*range(KEPT), *range(KEPT), 0, 99, 99]:
        call(graphs, key)
    assert list(graphs.kept) == [2, 3, 0, 99]


def test_graphs_hold_no_more_than_their_room() -> None:
    captures = Captures(size=40)
    graphs = Graphs(captures, 100)
    for key in (1, 1, 2, 2, 3, 3):
        call(graphs, key)
    assert list(graphs.kept) == [2, 3]
    captures.size = 101
    assert [call(graphs, 4), call(graphs, 4), 4 in graphs.kept] == [4, 4, False]
    assert list(graphs.kept) == [2, 3]
    graphs.clear()
    assert not graphs.kept


def test_what_can_not_be_captured_is_launched_and_said_once() -> None:
    captures, said = Captures(error="operation not permitted when stream is capturing\nmore"), list[str]()
    graphs = Graphs(captures, 100)
    assert [call(graphs, key, said) for key in (1, 1, 1, 2, 2)] == [1, 1, 1, 2, 2]
    assert said == [
        "CUDA graphs can't be used here: operation not permitted when stream is capturing. Calls are launched one by "
        "one."
    ]


def test_memory_that_runs_out_while_capturing_frees_the_graphs() -> None:
    captures, said = Captures(), list[str]()
    graphs = Graphs(captures, 100)
    call(graphs, 1)
    call(graphs, 1)
    captures.error = "CUDA out of memory."
    assert [call(graphs, 2, said), call(graphs, 2, said)] == [2, 2]
    assert (list(graphs.kept), said, graphs.failed) == ([], [], False)


def test_a_network_s_graphs_follow_its_weights_and_shapes() -> None:
    network, captures = random_network(CONFIGS["no attention"]), Captures(size=0)
    small, large = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 4, 3)

    def decoded(z: Tensor, max_memory: int | None = None) -> Tensor:
        found = whole_network.run(network, "decode", z, GRAPHS, capture=captures, max_memory=max_memory)
        assert found is not None
        return found

    for z in (small, large, small, large, small):
        assert relative(decoded(z), network.decode(z)) < 1e-5
    assert [one.replays for one in captures.made] == [2, 1]
    network.decoder.conv_out.weight.mul_(2)
    for _ in range(2):
        assert relative(decoded(small), network.decode(small)) < 1e-5
    assert [one.replays for one in captures.made] == [2, 1, 1]
    decoded(small, max_memory=10**9)  # what is held between calls isn't within a budget
    assert [one.replays for one in captures.made] == [2, 1, 1]

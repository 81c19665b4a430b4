"""Graphs of ComfyUI that lead in circles, to nowhere, or so far that they are given up."""

from collections.abc import Callable
from typing import Any

import pytest

from support.images.metadata_files import decoding_graph, node
from vaelens.identification.images.claims import Claim
from vaelens.identification.images.comfyui import MOST_STEPS, TOO_LARGE, Node, read_graph, read_prompt

NAME = "ae.safetensors"
LOADER = node("VAELoader", vae_name=NAME)


def only(graph: dict[str, Any]) -> Claim:
    (claim,) = read_graph(read_prompt(graph), "here")
    return claim


def test_cycles_and_links_to_nowhere_end() -> None:
    graph = decoding_graph(node("Reroute", x=["11", 0]), n11=node("Reroute", x=["10", 0]))
    assert only(graph).notes == ("Its graph leads in a circle and to no VAE.",)
    graph = decoding_graph(LOADER)
    del graph["10"]
    assert only(graph).notes == ("Its graph links to a node that isn't in it.",)


def test_a_long_chain_is_followed_and_a_longer_one_given_up() -> None:
    for length, found in ((1500, NAME), (5000, None)):
        graph = decoding_graph(node("Reroute", x=["1000", 0]))
        graph |= {str(1000 + i): node("Reroute", x=[str(1001 + i), 0]) for i in range(length)}
        graph[str(1000 + length)] = LOADER
        assert only(graph).vae == found


def many_saves_at_a_long_chain() -> dict[str, Any]:
    graph = decoding_graph(LOADER) | {str(1000 + i): node("ImageScale", image=[str(1001 + i), 0]) for i in range(1990)}
    graph["2990"] = node("VAEDecode", vae=["10", 0])
    return graph | {f"s{i}": node("SaveImage", images=["1000", 0]) for i in range(1200)}


def many_starts_at_a_long_chain() -> dict[str, Any]:
    graph = many_saves_at_a_long_chain()
    return graph | {f"s{i}": node("SaveImage", images=[str(1000 + i), 0]) for i in range(1200)}


def many_starts_at_a_wide_switch() -> dict[str, Any]:
    graph = decoding_graph(LOADER, n50=node("Switch", select=7, **{f"input{i}": ["8", 0] for i in range(5000)}))
    graph |= {f"r{i}": node("Reroute", x=["50", 0]) for i in range(5000)}
    return graph | {f"s{i}": node("SaveImage", images=[f"r{i}", 0]) for i in range(5000)}


def many_loaders_at_a_long_chain_of_texts() -> dict[str, Any]:
    graph = decoding_graph(LOADER, n50=node("Switch", **{f"input{i}": [f"d{i}", 0] for i in range(3000)}))
    graph["9"]["inputs"]["images"] = ["50", 0]
    graph |= {f"d{i}": node("AllInOne", vae_name=["t0", 0]) for i in range(3000)}
    return graph | {f"t{i}": node("Reroute", x=[f"t{i + 1}", 0]) for i in range(20_000)}


class Counted(dict[str, Any]):
    """A mapping that counts how often one of its items is looked at."""

    looked = 0

    def get(self, *arguments: Any) -> Any:
        Counted.looked += 1
        return super().get(*arguments)

    def __getitem__(self, name: Any) -> Any:
        Counted.looked += 1
        return super().__getitem__(name)

    def items(self) -> Any:
        Counted.looked += len(self)
        return super().items()


@pytest.mark.parametrize(
    ("hostile", "found"),
    [
        (many_saves_at_a_long_chain, NAME),
        (many_starts_at_a_long_chain, NAME),
        (many_starts_at_a_wide_switch, NAME),
        (many_loaders_at_a_long_chain_of_texts, None),
    ],
)
def test_the_whole_graph_is_followed_in_a_bounded_number_of_steps(
    hostile: Callable[[], dict[str, Any]], found: str | None
) -> None:
    nodes = read_prompt(hostile())
    once = sum(1 + len(node.links) for node in nodes.values())  # to see what saves, and what is used
    graph = Counted({name: Node(node.kind, Counted(node.links), node.values) for name, node in nodes.items()})
    Counted.looked = 0
    claims = read_graph(graph, "here")
    assert claims[0].vae == found
    assert Counted.looked < 3 * once + 5 * MOST_STEPS
    if hostile is not many_saves_at_a_long_chain:
        assert any(TOO_LARGE in note for claim in claims for note in claim.notes)

"""The editor's drawing of ComfyUI's graph, followed where the graph itself isn't there."""

import time
from typing import Any

import pytest

from support.images.metadata_files import decoding_graph, drawn, node
from vaelens.identification.images.comfyui import read_graph
from vaelens.identification.images.comfyui_workflow import MOST_INSIDE, read_workflow

NAME = 'vae, with: ünïcode "日本".safetensors'
LOADER = node("VAELoader", vae_name=NAME)
CHECKPOINT = node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors")


def test_the_drawing_alone() -> None:
    for loader, expected in ((LOADER, (NAME, False)), (CHECKPOINT, (None, True))):
        (claim,) = read_graph(read_workflow(drawn(decoding_graph(loader))), "here")
        assert (claim.vae, claim.own_vae) == expected


def test_muted_bypassed_and_set_nodes_of_a_drawing() -> None:
    drawing = drawn(decoding_graph(LOADER))
    save = next(one for one in drawing["nodes"] if one["type"] == "SaveImage")
    decode = next(one for one in drawing["nodes"] if one["type"] == "VAEDecode")
    bypassed = {"id": 70, "type": "ImageBlur", "mode": 4, "outputs": [{"type": "IMAGE"}]}
    bypassed["inputs"] = [{"name": "image", "type": "IMAGE", "link": 201}, {"name": "m", "type": "MASK", "link": 202}]
    setter = {"id": 71, "type": "SetNode", "inputs": [{"name": "VAE", "link": 203}], "widgets_values": ["the vae"]}
    getter = {"id": 72, "type": "GetNode", "inputs": [], "widgets_values": ["the vae"]}
    muted = {"id": 73, "type": "SaveImage", "mode": 2, "inputs": [{"name": "images", "link": 204}]}
    drawing["nodes"] += [bypassed, setter, getter, muted]
    drawing["links"] += [[201, 8, 0, 70, 0, "IMAGE"], [202, 99, 0, 70, 1, "MASK"], [203, 10, 0, 71, 0, "VAE"]]
    drawing["links"] += [[204, 98, 0, 73, 0, "IMAGE"], [205, 70, 0, 9, 0, "IMAGE"], [206, 72, 0, 8, 1, "VAE"]]
    save["inputs"][0]["link"] = 205
    next(one for one in decode["inputs"] if one["name"] == "vae")["link"] = 206
    (claim,) = read_graph(read_workflow(drawing), "here")
    assert (claim.vae, claim.notes) == (NAME, ())


def test_what_a_widget_held_before_it_was_linked_isnt_claimed() -> None:
    drawing = drawn(decoding_graph(node("VAELoader", vae_name=["31", 0]), n31=node("PrimitiveNode", value=NAME)))
    loader = next(one for one in drawing["nodes"] if one["type"] == "VAELoader")
    loader["widgets_values"] = ["stale.pt"]
    (claim,) = read_graph(read_workflow(drawing), "here")
    assert claim.vae == NAME
    next(one for one in drawing["nodes"] if one["type"] == "PrimitiveNode")["mode"] = 2
    (claim,) = read_graph(read_workflow(drawing), "here")
    assert not claim.is_statement
    assert "links to a node that isn't in it" in claim.notes[0]


def test_links_as_objects() -> None:
    drawing = drawn(decoding_graph(LOADER))
    drawing["links"] = [
        {
            "id": one[0],
            "origin_id": one[1],
            "origin_slot": one[2],
            "target_id": one[3],
            "target_slot": one[4],
            "type": "",
        }
        for one in drawing["links"]
    ]
    (claim,) = read_graph(read_workflow(drawing), "here")
    assert claim.vae == NAME


@pytest.mark.parametrize(
    ("inputs", "outputs", "slot", "found"),
    [
        (("IMAGE", "IMAGE"), ("IMAGE",), 0, "first"),
        (("IMAGE", "IMAGE"), ("IMAGE", "IMAGE"), 1, "second"),  # in the same place
        (("MASK", "IMAGE"), ("IMAGE",), 0, "second"),
        (("IMAGE,MASK", "IMAGE"), ("IMAGE",), 0, "first"),
        (("MASK", "IMAGE,LATENT", "IMAGE"), ("IMAGE",), 0, "third"),  # the same type before another that fits
        (("MASK", "*"), ("IMAGE",), 0, "second"),
        (("IMAGE", "LATENT"), ("LATENT", "IMAGE"), 1, "first"),
        (("MASK", "LATENT"), ("IMAGE",), 0, None),
    ],
)
def test_a_bypassed_node_gives_on_the_input_that_the_editor_takes(
    inputs: tuple[str, ...], outputs: tuple[str, ...], slot: int, found: str | None
) -> None:
    graph = {"9": node("SaveImage", images=["12", slot])}
    for i, name in enumerate(("first", "second", "third")):
        graph |= {f"2{i}": node("VAEDecode", vae=[f"3{i}", 0]), f"3{i}": node("VAELoader", vae_name=name)}
    drawing = drawn(graph)
    given = [{"name": f"image{i}", "type": kind, "link": 100 + i} for i, kind in enumerate(inputs)]
    drawing["links"] += [[100 + i, 20 + i, 0, 12, i, kind] for i, kind in enumerate(inputs)]
    given_on = [{"type": kind} for kind in outputs]
    drawing["nodes"].append({"id": 12, "type": "ImageBlend", "mode": 4, "inputs": given, "outputs": given_on})
    claims = read_graph(read_workflow(drawing), "here")
    assert [claim.vae for claim in claims if claim.notes == ()] == [found] * (found is not None)
    assert len(claims) == 1


def test_a_reroute_whose_input_has_no_name() -> None:
    graph = decoding_graph(node("Reroute", **{"": ["11", 0]}), n11=LOADER)
    (claim,) = read_graph(read_workflow(drawn(graph)), "here")
    assert claim.vae == NAME


def test_a_linked_text_beside_others_without_names_isnt_a_name() -> None:
    replace = node("StringReplace", string=["32", 0], find="a", replace="b")
    graph = decoding_graph(node("VAELoader", vae_name=["31", 0]), n31=replace, n32=node("PrimitiveString", value="a"))
    (claim,) = read_graph(read_workflow(drawn(graph)), "here")
    assert not claim.is_statement


def in_a_subgraph(vae_from_outside: bool = False, instances: int = 1) -> dict[str, Any]:
    """As the editor draws it: a decoder and its loader inside, what saves outside."""
    name = "7651d2ae-5471-47b0-b064-b34ee62343c1"
    loader = {"id": 10, "type": "VAELoader", "widgets_values": [NAME]}
    loader["inputs"] = [{"name": "vae_name", "type": "COMBO", "widget": {"name": "vae_name"}, "link": 3}]
    vae = {"name": "vae", "type": "VAE", "link": 2}
    decode = {"id": 8, "type": "VAEDecode", "inputs": [{"name": "samples", "type": "LATENT", "link": None}, vae]}
    inner = [
        {"id": 1, "origin_id": 8, "origin_slot": 0, "target_id": -20, "target_slot": 1, "type": "IMAGE"},
        {"id": 2, "origin_id": 10, "origin_slot": 0, "target_id": 8, "target_slot": 1, "type": "VAE"},
        {"id": 3, "origin_id": -10, "origin_slot": 1, "target_id": 10, "target_slot": 0, "type": "COMBO"},
    ]
    if vae_from_outside:
        inner[1] |= {"origin_id": -10, "origin_slot": 2}
    definition: dict[str, Any] = {"id": name, "nodes": [decode, loader], "links": inner}
    definition["inputs"] = [{"name": "text"}, {"name": "vae_name"}, {"name": "vae"}]
    definition["outputs"] = [{"name": "LATENT"}, {"name": "IMAGE"}]
    nodes: list[dict[str, Any]] = []
    links: list[list[Any]] = []
    for i in range(instances):
        vae = {"name": "vae", "type": "VAE", "link": 20 + i}
        nodes.append({"id": 68 + i, "type": name, "inputs": [vae], "widgets_values": []})
        nodes.append({"id": 30 + i, "type": "SaveImage", "inputs": [{"name": "images", "link": 10 + i}]})
        links.append([10 + i, 68 + i, 1, 30 + i, 0, "IMAGE"])
        if vae_from_outside:
            nodes.append({"id": 50 + i, "type": "VAELoader", "widgets_values": [f"outside{i}.pt"]})
            links.append([20 + i, 50 + i, 0, 68 + i, 0, "VAE"])
    return {"nodes": nodes, "links": links, "definitions": {"subgraphs": [definition]}}


def vaes(drawing: dict[str, Any]) -> list[str | None]:
    return [claim.vae for claim in read_graph(read_workflow(drawing), "here")]


def test_into_subgraphs_and_out_of_them() -> None:
    assert vaes(in_a_subgraph()) == [NAME]
    assert vaes(in_a_subgraph(vae_from_outside=True, instances=2)) == ["outside0.pt", "outside1.pt"]
    assert "68:10" in read_workflow(in_a_subgraph())  # as `prompt` calls it


def test_a_subgraph_in_a_subgraph() -> None:
    drawing = in_a_subgraph()
    host, save = drawing["nodes"]
    outer = {"id": "outer", "nodes": [host], "inputs": [], "outputs": [{"name": "IMAGE"}]}
    outer["links"] = {"1": {"id": 1, "origin_id": 68, "origin_slot": 1, "target_id": -20, "target_slot": 0}}
    drawing["definitions"]["subgraphs"].append(outer)
    drawing["nodes"] = [{"id": 70, "type": "outer", "inputs": []}, save]
    drawing["links"] = [[10, 70, 0, 30, 0, "IMAGE"]]
    assert vaes(drawing) == [NAME]
    assert "70:68:10" in read_workflow(drawing)


@pytest.mark.parametrize(("texts", "found"), [([], NAME), (["a prompt", NAME], NAME), (["a prompt", "other.pt"], None)])
def test_a_name_that_is_shown_outside(texts: list[str], found: str | None) -> None:
    """A node that stands for a subgraph may show the loader's widget, and then holds its value without its name."""
    drawing = in_a_subgraph()
    drawing["nodes"][0]["widgets_values"] = texts
    (claim,) = read_graph(read_workflow(drawing), "here")
    assert claim.vae == found
    assert (claim.notes == ()) == (found is not None)


def test_muted_and_bypassed_subgraphs() -> None:
    drawing = in_a_subgraph()
    drawing["nodes"][0]["mode"] = 2
    assert vaes(drawing) == [None]
    drawing["nodes"][0] |= {"mode": 4, "outputs": [{"type": "LATENT"}, {"type": "IMAGE"}]}
    drawing["nodes"][0]["inputs"] = [{"name": "image", "type": "IMAGE", "link": 40}]
    drawing["nodes"].append({"id": 60, "type": "LoadImage"})
    drawing["links"].append([40, 60, 0, 68, 0, "IMAGE"])
    (claim,) = read_graph(read_workflow(drawing), "here")
    assert claim.notes == ("The image comes from the node LoadImage, not from a VAE.",)


def test_subgraphs_that_hold_themselves_end() -> None:
    drawing = in_a_subgraph()
    (definition,) = drawing["definitions"]["subgraphs"]
    definition["nodes"] += [{"id": 100 + i, "type": definition["id"], "inputs": []} for i in range(5)]
    assert len(read_workflow(drawing)) < 2 * MOST_INSIDE
    assert vaes(drawing) == [NAME]


def test_a_large_subgraph_that_stands_in_a_graph_very_often_takes_no_time() -> None:
    drawing = in_a_subgraph()
    (definition,) = drawing["definitions"]["subgraphs"]
    wide: dict[str, Any] = {"inputs": [{"name": f"i{i}", "link": 1} for i in range(20_000)]}
    definition["nodes"].append({"id": 90, "type": "Wide"} | wide)
    drawing["nodes"] += [{"id": 100 + i, "type": definition["id"], "inputs": []} for i in range(3000)]
    start = time.perf_counter()
    assert vaes(drawing) == [NAME]
    assert time.perf_counter() - start < 10  # it would take minutes

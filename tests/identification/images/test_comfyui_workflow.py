"""The editor's drawing of ComfyUI's graph, followed where the graph itself isn't there."""

import pytest

from support.images.metadata_files import decoding_graph, drawn, node
from vaelens.identification.images.comfyui import read_graph
from vaelens.identification.images.comfyui_workflow import read_workflow

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

"""ComfyUI's graph, followed from what was saved back to the VAE, in every place and form it is written in."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.images.metadata_files import (
    PIXELS,
    comfyui_animation,
    comfyui_webp,
    commented,
    decoding_graph,
    node,
    png_with,
    written,
)
from support.images.written_files import saved
from vaelens.identification.images.claims import Claim
from vaelens.identification.images.comfyui import read_graph, read_prompt
from vaelens.identification.images.comfyui_workflow import read_workflow
from vaelens.identification.images.metadata import read_metadata

NAME = 'vae, with: ünïcode "日本".safetensors'
LOADER = node("VAELoader", vae_name=NAME)
CHECKPOINT = node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors")


def claims_of(graph: dict[str, Any]) -> list[Claim]:
    return read_graph(read_prompt(graph), "here")


def only(graph: dict[str, Any]) -> Claim:
    (claim,) = claims_of(graph)
    return claim


def drawn(graph: dict[str, Any]) -> dict[str, Any]:
    """A graph as the editor draws it: numbered links, widgets without names."""
    nodes, links = [], []
    for name, one in graph.items():
        inputs = []
        widgets = []
        for key, value in one["inputs"].items():
            if isinstance(value, list):
                links.append([len(links) + 1, int(value[0]), value[1], int(name), 0, "ANY"])
                inputs.append({"name": key, "type": "ANY", "link": len(links)})
            else:
                widgets.append(value)
        kind = one["class_type"]
        nodes.append({"id": int(name), "type": kind, "mode": 0, "inputs": inputs, "widgets_values": widgets})
    return {"last_node_id": 99, "nodes": nodes, "links": links, "version": 0.4}


def test_the_vae_that_was_loaded() -> None:
    claim = only(decoding_graph(LOADER))
    assert (claim.vae, claim.hash, claim.own_vae, claim.notes) == (NAME, None, False, ())


def test_the_checkpoints_own_vae() -> None:
    claim = only(decoding_graph(CHECKPOINT, output=2))
    assert (claim.vae, claim.checkpoint, claim.own_vae) == (None, "sd_xl_base_1.0.safetensors", True)


def test_another_loader_in_the_graph_isnt_claimed() -> None:
    """It encodes an image for img2img; the one that decodes counts."""
    graph = decoding_graph(LOADER, n20=node("VAELoader", vae_name="other.pt"), n21=node("LoadImage", image="a.png"))
    graph["5"] = node("VAEEncode", pixels=["21", 0], vae=["20", 0])
    assert only(graph).vae == NAME


def test_through_reroutes_switches_and_texts_of_other_nodes() -> None:
    graph = decoding_graph(node("VAELoader", vae_name=["31", 0]), n31=node("PrimitiveString", value=NAME))
    graph["30"] = node("Reroute", **{"": ["10", 0]})
    graph["8"]["inputs"]["vae"] = ["30", 0]
    assert only(graph).vae == NAME
    graph["40"] = node("ImpactSwitch", select=2, input1=["41", 0], input2=["30", 0])
    graph["41"] = node("VAELoader", vae_name="not.chosen.pt")
    graph["8"]["inputs"]["vae"] = ["40", 0]
    assert only(graph).vae == NAME
    del graph["40"]["inputs"]["select"]
    found = claims_of(graph)
    assert [claim.vae for claim in found] == ["not.chosen.pt", NAME]
    assert all(claim.notes == ("A switch chose among several VAEs.",) for claim in found)


@pytest.mark.parametrize("on", [True, False])
def test_a_switch_between_two(on: bool) -> None:
    """Of ComfyUI itself."""
    graph = decoding_graph(node("ComfySwitchNode", switch=on, on_true=["41", 0], on_false=["42", 0]))
    graph |= {"41": node("VAELoader", vae_name="on.pt"), "42": node("VAELoader", vae_name="off.pt")}
    claim = only(graph)
    assert (claim.vae, claim.notes) == ("on.pt" if on else "off.pt", ())


@pytest.mark.parametrize("chooser", ["select", "index", "switch"])
def test_what_chooses_is_no_branch(chooser: str) -> None:
    graph = decoding_graph(node("AnySwitch", **{chooser: ["43", 0]}, input1=["41", 0]))
    graph |= {"41": LOADER, "43": node("PrimitiveInt", value=1)}
    claim = only(graph)
    assert (claim.vae, claim.notes) == (NAME, ())


def test_what_changed_the_image_is_noted() -> None:
    graph = decoding_graph(LOADER, n50=node("ImageScaleBy", image=["8", 0], upscale_method="lanczos", scale_by=2))
    graph["9"]["inputs"]["images"] = ["50", 0]
    claim = only(graph)
    assert claim.vae == NAME
    assert claim.notes == ("After it was decoded, the node ImageScaleBy changed the image.",)


def test_a_node_that_decodes_among_other_things() -> None:
    graph = decoding_graph(LOADER, n50=node("UltimateSDUpscale", image=["8", 0], vae=["51", 0], steps=20))
    graph["51"] = node("VAELoader", vae_name="second.pt")
    graph["9"]["inputs"]["images"] = ["50", 0]
    claim = only(graph)
    assert (claim.vae, claim.notes) == ("second.pt", ("The node UltimateSDUpscale took this VAE.",))


def test_a_loader_of_both() -> None:
    for chosen, vae, own in (("Baked VAE", None, True), (NAME, NAME, False)):
        loader = node("Efficient Loader", ckpt_name="x.safetensors", vae_name=chosen)
        claim = only(decoding_graph(loader, output=4))
        assert (claim.vae, claim.own_vae, claim.checkpoint) == (vae, own, "x.safetensors")


def test_a_name_that_isnt_understood_is_no_claim_of_the_checkpoints_own_vae() -> None:
    loader = node("Efficient Loader", ckpt_name="x.safetensors", vae_name=["31", 0])
    claim = only(decoding_graph(loader, output=4, n31=node("MyVaePicker", choice=3)))
    assert (claim.vae, claim.own_vae, claim.checkpoint) == (None, False, "x.safetensors")
    assert claim.notes == (
        "The node Efficient Loader takes the VAE's name from elsewhere. The node MyVaePicker isn't known, so its graph "
        "can't be followed further.",
    )
    alone = only(decoding_graph(node("VAELoader", vae_name=["31", 0]), n31=node("MyVaePicker", choice=3)))
    assert not alone.is_statement
    assert "MyVaePicker" in alone.notes[0]
    baked = node("Efficient Loader", ckpt_name=["31", 0], vae_name="Baked VAE")
    claim = only(decoding_graph(baked, output=4, n31=node("MyPicker", choice=3)))
    assert (claim.vae, claim.own_vae, claim.checkpoint) == (None, True, None)


def test_a_value_that_is_shown_isnt_an_image() -> None:
    graph = decoding_graph(
        LOADER, n70=node("PreviewAny", source=["71", 0]), n71=node("StringConcatenate", string_a="a")
    )
    assert only(graph).vae == NAME


def test_a_decoder_without_a_vae() -> None:
    graph = decoding_graph(LOADER)
    del graph["8"]["inputs"]["vae"]
    assert only(graph).notes == ("The node VAEDecode has no VAE.",)


def test_several_saved_images_give_several_claims() -> None:
    graph = decoding_graph(LOADER, n60=node("VAEDecodeTiled", samples=["3", 0], vae=["61", 2]), n61=CHECKPOINT)
    graph["62"] = node("PreviewImage", images=["60", 0])
    graph["63"] = node("PreviewImage", images=["8", 0])
    assert [(claim.vae, claim.own_vae) for claim in claims_of(graph)] == [(NAME, False), (None, True)]


def test_unknown_nodes_end_the_way() -> None:
    graph = decoding_graph(LOADER, n50=node("SomethingOfTheirOwn", thing=["8", 0]))
    graph["9"]["inputs"]["images"] = ["50", 0]
    claim = only(graph)
    assert not claim.is_statement
    assert claim.notes == ("The node SomethingOfTheirOwn isn't known, so its graph can't be followed further.",)
    graph = decoding_graph(node("MysteryVAE", strength=1))
    assert "MysteryVAE" in only(graph).notes[0]


def test_an_image_from_a_file() -> None:
    graph = {"1": node("LoadImage", image="a.png"), "2": node("SaveImage", images=["1", 0])}
    assert only(graph).notes == ("The image comes from the node LoadImage, not from a VAE.",)


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


@pytest.mark.parametrize("form", ["png", "webp", "animation", "comment", "was", "jpeg"])
def test_every_place_it_is_written_in(form: str, tmp_path: Path) -> None:
    graph = decoding_graph(LOADER)
    workflow = drawn(graph)
    exif = Image.Exif()
    exif[0x010F], exif[0x010E] = f"Prompt:{json.dumps(graph)}", f"Workflow:{json.dumps(workflow)}"
    data = {
        "png": lambda: png_with({"prompt": json.dumps(graph), "workflow": json.dumps(workflow)}, "tEXt"),
        "webp": lambda: comfyui_webp(graph, workflow),
        "animation": lambda: comfyui_animation(graph),
        "comment": lambda: commented(json.dumps({"prompt": graph, "workflow": workflow}), "JPEG", "ascii"),
        "was": lambda: saved(PIXELS, "WEBP", exif=exif),
        "jpeg": lambda: saved(PIXELS, "JPEG", exif=exif),
    }[form]()
    found = read_metadata(written(tmp_path, data, f"image.{form}"))
    assert found.unread == ()
    assert [(claim.program, claim.vae) for claim in found.claims] == [("ComfyUI", NAME)]


def test_nan_which_comfyui_writes(tmp_path: Path) -> None:
    graph = decoding_graph(LOADER)
    graph["3"]["is_changed"] = [float("nan")]
    found = read_metadata(written(tmp_path, png_with({"prompt": json.dumps(graph)})))
    assert [claim.vae for claim in found.claims] == [NAME]


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

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
    drawn,
    node,
    png_with,
    written,
)
from support.images.written_files import saved
from vaelens.identification.images.claims import Claim
from vaelens.identification.images.comfyui import read_graph, read_prompt
from vaelens.identification.images.metadata import read_metadata

NAME = 'vae, with: ünïcode "日本".safetensors'
LOADER = node("VAELoader", vae_name=NAME)
CHECKPOINT = node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors")


def claims_of(graph: dict[str, Any]) -> list[Claim]:
    return read_graph(read_prompt(graph), "here")


def only(graph: dict[str, Any]) -> Claim:
    (claim,) = claims_of(graph)
    return claim


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


@pytest.mark.parametrize(
    "other",
    [
        node("DepthAnythingPreprocessor", image=["8", 0], ckpt_name="depth_anything_vitl14.pth"),
        node("RIFE VFI", frames=["8", 0], ckpt_name="rife47.pth"),
        node("UpscaleLoader", image=["8", 0], model_path="4x.pth"),
        node("LoadModel", model_path="4x.pth"),
    ],
)
def test_a_file_of_another_network_is_no_checkpoint(other: dict[str, Any]) -> None:
    kind = other["class_type"]
    claim = only(decoding_graph(LOADER, n9=node("SaveImage", images=["20", 0]), n20=other))
    assert (claim.own_vae, claim.checkpoint) == (False, None)
    assert claim.notes == (f"The node {kind} isn't known, so its graph can't be followed further.",)


def test_diffusers_loader() -> None:
    claim = only(decoding_graph(node("DiffusersLoader", model_path="stable-diffusion-v1-5"), output=2))
    assert (claim.own_vae, claim.checkpoint) == (True, "stable-diffusion-v1-5")


def test_a_node_that_loads_samples_and_decodes() -> None:
    claim = only({"1": node("AllInOne", ckpt_name="x.ckpt", seed=1), "2": node("SaveImage", images=["1", 0])})
    assert (claim.own_vae, claim.checkpoint) == (True, "x.ckpt")


@pytest.mark.parametrize(
    "holder",
    [
        node("StringReplace", string="wrong.pt", find="wrong", replace="right"),
        node("RegexExtract", string="wrong right", regex_pattern="right"),
        node("Text Switch", text_a="wrong.pt", text=["32", 0]),
    ],
)
def test_a_text_among_other_inputs_isnt_a_name(holder: dict[str, Any]) -> None:
    """What the node makes of them isn't written anywhere."""
    graph = decoding_graph(node("VAELoader", vae_name=["31", 0]), n31=holder, n32=node("PrimitiveString", value="x"))
    claim = only(graph)
    assert not claim.is_statement
    assert holder["class_type"] in claim.notes[0]


def test_a_text_of_a_node_that_isnt_known_is_noted() -> None:
    claim = only(decoding_graph(node("VAELoader", vae_name=["31", 0]), n31=node("StringUpper", string="ae.sft")))
    assert claim.vae == "ae.sft"
    assert claim.notes == (
        "The node VAELoader takes the VAE's name from elsewhere. The node StringUpper was given this text and may have "
        "changed it.",
    )
    selector = node("VAE Selector", vae_name="ae.sft", folder="flux")
    claim = only(decoding_graph(node("VAELoader", vae_name=["31", 0]), n31=selector))
    assert (claim.vae, claim.notes) == ("ae.sft", ())


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


def test_an_image_that_nothing_uses_is_saved() -> None:
    """Whatever the node that saves it is called, and whatever else is shown."""
    graph = decoding_graph(LOADER, n9=node("VHS_VideoCombine", images=["8", 0], frame_rate=8))
    assert only(graph).vae == NAME
    graph |= {"30": node("LoadImage", image="x.png"), "31": node("PreviewImage", images=["30", 0])}
    assert [claim.vae for claim in claims_of(graph)] == [NAME, None]
    for left_over in (node("VAEEncode", pixels=["30", 0]), node("ImageScale", image=["30", 0])):
        assert only(decoding_graph(LOADER, n30=graph["30"], n31=left_over)).vae == NAME


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

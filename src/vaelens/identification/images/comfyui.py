"""ComfyUI's graph, followed from the saved image back to the VAE that decoded it.

ComfyUI writes two JSON texts: `prompt`, the graph that ran, and `workflow`, the editor's drawing of it (read by
`comfyui_workflow` where there is no `prompt`). In PNG they are text chunks; in WebP and JPEG, and in whatever custom
nodes save, EXIF texts that begin with "prompt:" or "workflow:", or one UserComment that holds both. The graph is

    {"9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
     "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["10", 0]}},
     "10": {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}}}

where [node, output] links an input to another node. A file holds the whole graph but doesn't say which of its nodes
saved it: so each node that saves gives a claim, and equal claims are one. Nodes are recognised by what they take and
give rather than by a list of names, because thousands of custom ones exist: whatever has `vae_name` or `ckpt_name`
loads (unless it takes an image: then the file is of another network), whatever takes a `vae` decodes by it, image
inputs are followed through known nodes that change an image, and an image that nothing uses is saved.
Checked against ComfyUI 0.3 (`comfy_api/latest/_ui.py`, `nodes.py`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from vaelens.identification.images.claims import Claim, at_most, distinct, text_of

PROGRAM = "ComfyUI"
MOST_STEPS = 10_000  # nodes and links looked at in a graph
MOST_NOTES = 20  # on one way to a VAE
SAVES = re.compile(r"save|preview", re.IGNORECASE)
DECODES = re.compile(r"VAE.?Decode", re.IGNORECASE)
SWITCHES = re.compile(r"switch|select|reroute|primitive", re.IGNORECASE)
NO_VAE = re.compile(r"^(Load|Empty|Solid)\w*Image", re.IGNORECASE)
BAKED = {"baked vae", "baked_vae", "baked-in", "none", "automatic", "default", ""}  # of loaders that choose either
VAE_INPUT = re.compile(r"(?:^|_)vae(?:_opt)?$", re.IGNORECASE)  # vae, optional_vae
IMAGE_INPUTS = re.compile(r"^(?:images?|pixels|source|destination|image_?\w)$", re.IGNORECASE)
TAKES_IMAGES = re.compile(r"image|pixels|frames|video", re.IGNORECASE)
ENCODES = re.compile(r"encode", re.IGNORECASE)
CHANGES = re.compile(  # ComfyUI's own nodes from image to image
    r"^(?:Image(?:Scale|Upscale|Invert|Blend|Blur|Quantize|Sharpen|Crop|Batch|FromBatch|Pad|Composite|Flip|Rotate|"
    r"AddNoise|Stitch)\w*|RepeatImageBatch|RebatchImages|SplitImage\w*|JoinImage\w*|PorterDuff\w*|Canny|Morphology|"
    r"ImageRGBToYUV|ImageYUVToRGB|ResizeImage\w*|ResizeAndPadImage)$"
)
SAVED_INPUTS = re.compile(r"^(?:images?|pixels|image_?\w)$", re.IGNORECASE)  # `source` is also any value's
CHOOSERS = {"select", "index", "Input", "switch"}  # inputs of a switch that say which other one it gives
UNCHANGED = re.compile(r"^(?:ImageBatch|ImageFromBatch|RepeatImageBatch|RebatchImages)$")
TEXT_INPUTS = {"value", "string", "text", "vae_name", "ckpt_name"}  # of nodes that hold a text
HOLDS_TEXT = re.compile(r"^(?:Primitive|Reroute)")  # and gives it as it is
NOWHERE, CIRCLE = "Its graph links to a node that isn't in it.", "Its graph leads in a circle and to no VAE."
TOO_LARGE = f"Its graph was followed through {MOST_STEPS:,} nodes and links and no further."

Link = tuple[str, int]


@dataclass(frozen=True)
class Node:
    """One node: its class, its links by input, and its other inputs' values."""

    kind: str
    links: Mapping[str, Link] = field(default_factory=dict[str, Link])
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])


Graph = Mapping[str, Node]


def read_prompt(found: Any) -> Graph:
    """The graph of a `prompt`'s JSON; what isn't a node is left out."""
    nodes: dict[str, Node] = {}
    if not isinstance(found, dict):
        return nodes
    for name, node in cast(dict[str, Any], found).items():
        inputs, kind = _item(node, "inputs"), text_of(_item(node, "class_type"))
        if kind is None or not isinstance(inputs, dict):
            continue
        given = cast(dict[str, Any], inputs)
        links = {key: link for key, value in given.items() if (link := _link(value)) is not None}
        nodes[name] = Node(kind, links, {key: value for key, value in given.items() if key not in links})
    return nodes


def read_graph(graph: Graph, place: str) -> list[Claim]:
    """The claims of the nodes that save an image, in the graph's order. Each image saved is followed once."""
    used = {link[0] for node in graph.values() for link in node.links.values()}
    saving = [node for name, node in graph.items() if SAVES.search(node.kind) or (name not in used and _ends(node))]
    starts = dict.fromkeys(link for node in saving for link in _saved(node))
    if not starts:
        return [Claim(PROGRAM, place, notes=("No node of its graph saves an image.",))] if graph else []
    walk = _Walk(graph, place)
    claims: list[Claim] = []
    for start in starts:
        claims += walk.from_image(start)
        if walk.left < 0:
            break
    return at_most(distinct(claims), PROGRAM, place, "ways to a VAE")


class _Walk:
    """From saved images back along the links. From each of them a node is visited once, so cycles end; `left` is how
    many nodes and links may still be looked at.
    """

    def __init__(self, graph: Graph, place: str) -> None:
        self.graph, self.place = graph, place
        self.seen: set[tuple[str, str]] = set()
        self.left = MOST_STEPS

    def from_image(self, start: Link) -> list[Claim]:
        """The claims about an image that is saved."""
        self.seen.clear()
        return self._image(start) or [self._claim(notes=(CIRCLE,))]

    def _image(self, start: Link) -> list[Claim]:
        """Where an image comes from."""
        claims: list[Claim] = []
        pending: list[tuple[Link, tuple[str, ...]]] = [(start, ())]
        while pending:
            link, notes = pending.pop()
            node = self._visited("image", link)
            if node is None:
                continue
            if isinstance(node, str):
                claims.append(self._claim(notes=(*notes, node)))
                continue
            vae = [link for name, link in node.links.items() if VAE_INPUT.search(name)]
            if vae:
                by = () if DECODES.search(node.kind) else (f"The node {_shown(node)} took this VAE.",)
                claims += [claim.noting(*notes, *by) for link in vae[:1] for claim in self._vae(link)]
            elif SWITCHES.search(node.kind) or CHANGES.match(node.kind):
                branches, note = _images_through(node)
                notes = _added(notes, note)
                pending += [(branch, notes) for branch in reversed(branches)]
                if not branches:
                    claims.append(self._claim(notes=(*notes, _lost(node))))
            elif NO_VAE.match(node.kind):
                why = f"The image comes from the node {_shown(node)}, not from a VAE."
                claims.append(self._claim(notes=(*notes, why)))
            elif not _takes_images(node) and (named := self._named(node)) is not None:  # loads, samples and decodes
                claims.append(named.noting(*notes))
            elif DECODES.search(node.kind):
                claims.append(self._claim(notes=(*notes, f"The node {_shown(node)} has no VAE.")))
            else:
                claims.append(self._claim(notes=(*notes, _lost(node))))
        return claims

    def _vae(self, start: Link) -> list[Claim]:
        """Where a VAE comes from."""
        claims: list[Claim] = []
        pending: list[tuple[Link, tuple[str, ...]]] = [(start, ())]
        while pending:
            link, notes = pending.pop()
            node = self._visited("vae", link)
            if node is None:
                continue
            if isinstance(node, str):
                claims.append(self._claim(notes=(*notes, node)))
                continue
            if (named := self._named(node)) is not None:
                claims.append(named.noting(*notes))
                continue
            vae = [link for name, link in node.links.items() if VAE_INPUT.search(name)]
            branches = vae[:1] or (_branches(node) if SWITCHES.search(node.kind) else [])
            notes = _added(notes, "A switch chose among several VAEs." if len(branches) > 1 else None)
            pending += [(branch, notes) for branch in reversed(branches)]
            if not branches:
                claims.append(self._claim(notes=(*notes, _lost(node))))
        return claims

    def _named(self, node: Node) -> Claim | None:
        """The VAE that a node loads by name; None for a node that loads none.

        A name that comes from a node which may have changed it, or can't be followed, is noted: then the checkpoint's
        own VAE isn't claimed either.
        """
        vae, vae_from = self._text(node, "vae_name")
        checkpoint, checkpoint_from = self._text(node, "ckpt_name")
        if node.kind == "DiffusersLoader":
            checkpoint, checkpoint_from = self._text(node, "model_path")
        elsewhere = (("VAE", vae_from), ("checkpoint", checkpoint_from))
        notes = tuple(
            f"The node {_shown(node)} takes the {one}'s name from elsewhere. {why}" for one, why in elsewhere if why
        )
        loads_checkpoint = checkpoint is not None or checkpoint_from is not None
        if vae is not None and not (loads_checkpoint and vae.lower() in BAKED):
            return self._claim(vae=vae, checkpoint=checkpoint, notes=notes)
        if loads_checkpoint or vae_from is not None:
            return self._claim(checkpoint=checkpoint, own_vae=vae_from is None, notes=notes)
        return None

    def _text(self, node: Node, name: str) -> tuple[str | None, str | None]:
        """A text input, given or from a node that holds it, and what is unsure about one that is linked.

        A node gives the text that it was given if that has the name looked for, or is all that it was given.
        """
        seen: set[str] = set()
        wanted, unsure = name, None
        linked = False
        while name in node.links:
            linked = True
            origin = node.links[name][0]
            self.left -= 1
            if origin not in self.graph or origin in seen or self.left < 0:
                return None, TOO_LARGE if self.left < 0 else CIRCLE if origin in seen else NOWHERE
            seen.add(origin)
            node = self.graph[origin]
            name = _text_given(node, wanted)
            if name != wanted and not HOLDS_TEXT.match(node.kind):
                unsure = f"The node {_shown(node)} was given this text and may have changed it."
        text = text_of(node.values.get(name))
        return text, _lost(node) if linked and text is None else unsure

    def _visited(self, what: str, link: Link) -> Node | str | None:
        """The node that a link comes from, or why there is none to go on with; None for one followed before."""
        name = link[0]
        node = self.graph.get(name)
        again = (what, name) in self.seen
        self.left -= 1 if node is None or again else 1 + len(node.links)
        if self.left < 0:
            return TOO_LARGE
        self.seen.add((what, name))
        return NOWHERE if node is None else None if again else node

    def _claim(self, **values: Any) -> Claim:
        return Claim(PROGRAM, self.place, **values)


def _ends(node: Node) -> bool:
    """Whether a node that nothing uses may save an image: it isn't one that was left over."""
    return not any(one.search(node.kind) for one in (SWITCHES, CHANGES, NO_VAE, DECODES, ENCODES))


def _takes_images(node: Node) -> bool:
    return any(TAKES_IMAGES.search(name) for name in node.links)


def _images_through(node: Node) -> tuple[list[Link], str | None]:
    """The images that a switch or a node that changes images may give on, and a note on it."""
    if SWITCHES.search(node.kind):
        branches = _branches(node)
        return branches, "A switch chose among several images." if len(branches) > 1 else None
    return _image_links(node), None if UNCHANGED.match(node.kind) else _changed(node)


def _text_given(node: Node, wanted: str) -> str:
    """The input whose text a node gives on: the one of that name, else its only one; "" where that can't be told."""
    holds = HOLDS_TEXT.match(node.kind) is not None
    for name in (wanted, *(["value"] if holds else [])):
        if name in node.links or name in node.values:
            return name
    if len(node.links) + len(node.values) != 1:
        return ""
    (only,) = (*node.links, *node.values)
    return only if holds or only in TEXT_INPUTS else ""


def _added(notes: tuple[str, ...], note: str | None) -> tuple[str, ...]:
    return notes if note is None or note in notes or len(notes) >= MOST_NOTES else (*notes, note)


def _image_links(node: Node) -> list[Link]:
    return [link for name, link in node.links.items() if IMAGE_INPUTS.match(name)]


def _saved(node: Node) -> list[Link]:
    """The images that a node may save."""
    return [link for name, link in node.links.items() if SAVED_INPUTS.match(name)]


def _branches(node: Node) -> list[Link]:
    """What a switch may give: the chosen input where its number, or whether it is `on_true`, is given; else all."""
    chosen = node.values.get("select", node.values.get("index", node.values.get("Input")))
    if isinstance(chosen, int) and not isinstance(chosen, bool):
        links = [link for name, link in node.links.items() if re.search(rf"\D{chosen}$", name)]
        if len(links) == 1:
            return links
    on = node.values.get("switch")
    if isinstance(on, bool) and {"on_true", "on_false"} & set(node.links):
        link = node.links.get("on_true" if on else "on_false")
        return [] if link is None else [link]
    links = [link for name, link in node.links.items() if name not in CHOOSERS]
    return links or list(node.links.values())


def _changed(node: Node) -> str:
    return f"After it was decoded, the node {_shown(node)} changed the image."


def _lost(node: Node) -> str:
    return f"The node {_shown(node)} isn't known, so its graph can't be followed further."


def _shown(node: Node) -> str:
    return node.kind[:80]


def _link(value: Any) -> Link | None:
    """[node, output], as the graph links an input."""
    if not isinstance(value, list) or len(cast(list[Any], value)) != 2:
        return None
    name, output = cast(list[Any], value)
    if isinstance(name, str) and isinstance(output, int) and not isinstance(output, bool):
        return name, output
    return None


def _item(value: Any, key: str) -> Any:
    return cast(dict[str, Any], value).get(key) if isinstance(value, dict) else None

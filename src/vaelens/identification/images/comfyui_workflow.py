"""ComfyUI's `workflow`, the editor's drawing of a graph, turned into the graph that `comfyui` follows.

Needed only where a file holds no `prompt`. A drawing lists its nodes with the inputs' links and the widgets' values:

    {"nodes": [{"id": 8, "type": "VAEDecode", "mode": 0, "inputs": [{"name": "vae", "link": 15}]},
               {"id": 10, "type": "VAELoader", "widgets_values": ["ae.safetensors"]}],
     "links": [[15, 10, 0, 8, 1, "VAE"]]}

Widgets carry no names unless the editor was new enough, so only the loaders' first one is taken. A muted node is left
out, a bypassed one passes on its input of the same type, and SetNode and GetNode of KJNodes are resolved. What lies
inside a subgraph isn't followed. Checked against ComfyUI's frontend 1.2 (schema versions 0.4 and 1).
"""

from collections.abc import Iterator
from typing import Any, cast

from vaelens.identification.images.claims import text_of
from vaelens.identification.images.comfyui import Graph, Link, Node

MUTED, BYPASSED = 2, 4  # modes
FIRST_WIDGET = {  # of loaders: the input whose value it is
    "VAELoader": "vae_name",
    "CheckpointLoaderSimple": "ckpt_name",
    "unCLIPCheckpointLoader": "ckpt_name",
    "ImageOnlyCheckpointLoader": "ckpt_name",
    "DiffusersLoader": "model_path",
    "PrimitiveNode": "value",
    "PrimitiveString": "value",
}


def read_workflow(found: Any) -> Graph:
    """The graph of a `workflow`'s JSON; what has another form is left out."""
    if not isinstance(found, dict):
        return {}
    drawing = cast(dict[str, Any], found)
    links = dict(_links(drawing.get("links")))
    nodes: dict[str, Node] = {}
    senders: dict[str, Link] = {}  # of SetNode, by the name that it sets
    receivers: dict[str, str] = {}  # GetNode by id: the name
    for node in _objects(drawing.get("nodes")):
        name, kind = _id(node.get("id")), text_of(node.get("type"))
        if name is None or kind is None or node.get("mode") == MUTED:
            continue
        taken = {
            key: links[link]
            for given in _objects(node.get("inputs"))
            if (key := text_of(given.get("name"))) and (link := _id(given.get("link"))) in links
        }
        values = _values(node, kind)
        label = text_of(values.get("value"))
        if kind == "SetNode" and label and taken:
            senders[label] = next(iter(taken.values()))
        elif kind == "GetNode" and label:
            receivers[name] = label
        elif node.get("mode") == BYPASSED:
            nodes[name] = Node("Reroute", _same_type(node, taken))
        else:
            nodes[name] = Node(kind, taken, values)
    for name, label in receivers.items():
        nodes[name] = Node("Reroute", {"value": senders[label]} if label in senders else {})
    return nodes


def _values(node: dict[str, Any], kind: str) -> dict[str, Any]:
    widgets = node.get("widgets_values")
    if isinstance(widgets, dict):  # as some custom nodes store them
        return {key: value for key, value in cast(dict[str, Any], widgets).items() if isinstance(value, str)}
    name = "value" if kind in {"SetNode", "GetNode"} else FIRST_WIDGET.get(kind)
    first: Any = cast(list[Any], widgets)[0] if isinstance(widgets, list) and widgets else None
    return {name: first} if name and isinstance(first, str) else {}


def _same_type(node: dict[str, Any], taken: dict[str, Link]) -> dict[str, Link]:
    """Of a bypassed node, the inputs of its outputs' types."""
    types = {text_of(one.get("type")) for one in _objects(node.get("outputs"))}
    named = {text_of(one.get("name")): text_of(one.get("type")) for one in _objects(node.get("inputs"))}
    return {name: link for name, link in taken.items() if named.get(name) in types}


def _links(found: Any) -> Iterator[tuple[str, Link]]:
    """Each link's id, and the node and output that it comes from: [id, node, output, ...], or an object since 1.0."""
    if not isinstance(found, list):
        return
    for link in cast(list[Any], found):
        if isinstance(link, dict):
            one = cast(dict[str, Any], link)
            values = [one.get("id"), one.get("origin_id"), one.get("origin_slot")]
        elif isinstance(link, list):
            values = cast(list[Any], link)[:3]
        else:
            continue
        if len(values) == 3 and isinstance(values[2], int):
            name, origin = _id(values[0]), _id(values[1])
            if name is not None and origin is not None:
                yield name, (origin, values[2])


def _objects(found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list):
        return []
    return [cast(dict[str, Any], one) for one in cast(list[Any], found) if isinstance(one, dict)]


def _id(value: Any) -> str | None:
    """Ids are whole numbers, in some versions texts."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(value)

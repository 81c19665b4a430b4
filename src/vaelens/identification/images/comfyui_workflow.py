"""ComfyUI's `workflow`, the editor's drawing of a graph, turned into the graph that `comfyui` follows.

Needed only where a file holds no `prompt`. A drawing lists its nodes with the inputs' links and the widgets' values:

    {"nodes": [{"id": 8, "type": "VAEDecode", "mode": 0, "inputs": [{"name": "vae", "link": 15}]},
               {"id": 10, "type": "VAELoader", "widgets_values": ["ae.safetensors"]}],
     "links": [[15, 10, 0, 8, 1, "VAE"]]}

Widgets carry no names unless the editor was new enough, so only the loaders' first one is taken. A muted node is left
out, each output of a bypassed one gives on an input of its type, and SetNode and GetNode of KJNodes are resolved. What
lies inside a subgraph isn't followed. Checked against ComfyUI's frontend 1.2 (schema versions 0.4 and 1; for bypassed
nodes `ExecutableNodeDTO`).
"""

from collections.abc import Iterator
from typing import Any, cast

from vaelens.identification.images.claims import text_of
from vaelens.identification.images.comfyui import Graph, Link, Node

MUTED, BYPASSED = 2, 4  # modes
MOST_SLOTS = 100  # of a bypassed node
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
    bypassed = {_id(node.get("id")) for node in _objects(drawing.get("nodes")) if node.get("mode") == BYPASSED}
    links = {
        link: (_output(origin, slot), 0) if origin in bypassed else (origin, slot)
        for link, (origin, slot) in _links(drawing.get("links"))
    }
    nodes: dict[str, Node] = {}
    senders: dict[str, Link] = {}  # of SetNode, by the name that it sets
    receivers: dict[str, str] = {}  # GetNode by id: the name
    for node in _objects(drawing.get("nodes")):
        name, kind = _id(node.get("id")), text_of(node.get("type"))
        if name is None or kind is None or node.get("mode") == MUTED:
            continue
        taken = {
            text_of(given.get("name")) or "": links[link]  # a Reroute's has no name
            for given in _objects(node.get("inputs"))
            if (link := _id(given.get("link"))) in links
        }
        values = _values(node, kind)
        label = text_of(values.get("value"))
        if kind == "SetNode" and label and taken:
            senders[label] = next(iter(taken.values()))
        elif kind == "GetNode" and label:
            receivers[name] = label
        elif node.get("mode") == BYPASSED:
            nodes |= _given_on(name, node, links)
        else:
            nodes[name] = Node(kind, taken, values)
    for name, label in receivers.items():
        nodes[name] = Node("Reroute", {"value": senders[label]} if label in senders else {})
    return nodes


def _values(node: dict[str, Any], kind: str) -> dict[str, Any]:
    widgets = node.get("widgets_values")
    if isinstance(widgets, dict):  # as some custom nodes store them
        return {key: value for key, value in cast(dict[str, Any], widgets).items() if isinstance(value, str)}
    first = "value" if kind in {"SetNode", "GetNode"} else FIRST_WIDGET.get(kind)
    values = cast(list[Any], widgets) if isinstance(widgets, list) else []
    names = (first if first and not i else f"widget {i}" for i in range(len(values)))
    return {name: value for name, value in zip(names, values, strict=True) if isinstance(value, str)}


def _output(name: str, slot: int) -> str:
    """What stands for an output of a bypassed node, which gives on an input of its own."""
    return f"{name}/{slot}"


def _given_on(name: str, node: dict[str, Any], links: dict[str, Link]) -> dict[str, Node]:
    """A bypassed node's outputs, as the editor resolves them: to the input in the same place if the types fit, else to
    the first of the same type, else to the first that fits. Nothing if that isn't linked.
    """
    inputs = _objects(node.get("inputs"))
    kinds = [_kinds(one.get("type")) for one in inputs]
    found: dict[str, Node] = {}
    for slot, output in enumerate(_objects(node.get("outputs"))[:MOST_SLOTS]):
        wanted = _kinds(output.get("type"))
        fitting = [i for i, kind in enumerate(kinds[:MOST_SLOTS]) if not kind or not wanted or kind & wanted]
        same = slot if slot in fitting else next((i for i in fitting if kinds[i] == wanted), next(iter(fitting), None))
        if same is not None and (link := links.get(_id(inputs[same].get("link")) or "")):
            found[_output(name, slot)] = Node("Reroute", {"": link})
    return found


def _kinds(written: object) -> set[str]:
    """The types that an input or output takes, of a text with commas; none for one that takes any."""
    text = text_of(written)
    return set() if text in {None, "*"} else {one.strip().lower() for one in cast(str, text).split(",")}


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

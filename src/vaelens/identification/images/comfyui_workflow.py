"""ComfyUI's `workflow`, the editor's drawing of a graph, turned into the graph that `comfyui` follows.

Needed only where a file holds no `prompt`. A drawing lists its nodes with the inputs' links and the widgets' values:

    {"nodes": [{"id": 8, "type": "VAEDecode", "mode": 0, "inputs": [{"name": "vae", "link": 15}]},
               {"id": 10, "type": "VAELoader", "widgets_values": ["ae.safetensors"]}],
     "links": [[15, 10, 0, 8, 1, "VAE"]]}

Widgets carry no names unless the editor was new enough, so only the loaders' first one is taken. A muted node is left
out, each output of a bypassed one gives on an input of its type, and SetNode and GetNode of KJNodes are resolved.

A subgraph is a drawing under `definitions.subgraphs`. A node whose type is its id stands for all that is in it. Inside,
links come from the node -10, one output for each of the definition's `inputs`, and go to -20, one input for each of its
`outputs`. The nodes inside get the ids that they have in `prompt`: "68:10" is node 10 in what node 68 stands for.

Checked against ComfyUI's frontend 1.2 (schema versions 0.4 and 1), for bypassed nodes and subgraphs also against
`ExecutableNodeDTO` and `SubgraphNode` of later ones.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from vaelens.identification.images.claims import text_of
from vaelens.identification.images.comfyui import Graph, Link, Node

MUTED, BYPASSED = 2, 4  # modes
MOST_SLOTS = 100  # of a bypassed node
MOST_INSIDE = 50_000  # nodes, slots, widgets and links in all subgraphs, each as often as it stands in the graph
DEEPEST = 16  # subgraphs within one another
INPUTS, OUTPUTS = "-10", "-20"  # inside a subgraph: where its inputs come from, and where its outputs go
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
    definitions: Any = drawing.get("definitions")
    subgraphs = _objects(cast(dict[str, Any], definitions).get("subgraphs") if isinstance(definitions, dict) else None)
    reader = _Reader({name: one for one in subgraphs if (name := text_of(one.get("id")))})
    reader.read(drawing, _Place())
    return reader.graph()


@dataclass(frozen=True)
class _Place:
    """Where a drawing stands: the node that stands for it, what its inputs are linked to, and that node's own texts."""

    node: str | None = None
    inputs: Mapping[int, Link] = field(default_factory=dict[int, Link])
    texts: frozenset[str] = frozenset()
    depth: int = 0

    def name(self, inside: str) -> str:
        return inside if self.node is None else f"{self.node}:{inside}"


class _Reader:
    """Collects the nodes of a drawing and of the subgraphs in it."""

    def __init__(self, subgraphs: Mapping[str, dict[str, Any]]) -> None:
        self.subgraphs = subgraphs
        self.sizes = {name: _size(one) for name, one in subgraphs.items()}
        self.left = MOST_INSIDE
        self.nodes: dict[str, Node] = {}
        self.senders: dict[str, Link] = {}  # of SetNode, by the name that it sets
        self.receivers: dict[str, str] = {}  # GetNode by id: the name

    def graph(self) -> Graph:
        received = {
            name: Node("Reroute", {"value": self.senders[label]} if label in self.senders else {})
            for name, label in self.receivers.items()
        }
        return self.nodes | received

    def read(self, drawing: dict[str, Any], place: _Place) -> None:
        """Add what a drawing holds."""
        drawn = _objects(drawing.get("nodes"))
        replaced = {
            _id(node.get("id"))
            for node in drawn
            if node.get("mode") == BYPASSED or text_of(node.get("type")) in self.subgraphs
        }
        links: dict[str, Link] = {}
        promoted: set[str] = set()  # links from an input that is a widget of the node outside
        for one in _links(drawing.get("links")):
            if place.node is not None and one.origin == INPUTS:
                if one.slot in place.inputs:
                    links[one.name] = place.inputs[one.slot]
                else:
                    promoted.add(one.name)
                    continue
            else:
                name = place.name(one.origin)
                links[one.name] = (_output(name, one.slot), 0) if one.origin in replaced else (name, one.slot)
            if place.node is not None and one.target == OUTPUTS and one.target_slot is not None:
                self.nodes[_output(place.node, one.target_slot)] = Node("Reroute", {"": links[one.name]})
        for node in drawn:
            if node.get("mode") != MUTED:
                self._add(node, place, links, promoted)

    def _add(self, node: dict[str, Any], place: _Place, links: dict[str, Link], promoted: set[str]) -> None:
        inside, kind = _id(node.get("id")), text_of(node.get("type"))
        if inside is None or kind is None:
            return
        name = place.name(inside)
        values = _values(node, kind)
        taken: dict[str, Link] = {}
        for given in _objects(node.get("inputs")):
            link, key = _id(given.get("link")), text_of(given.get("name")) or ""  # a Reroute's has no name
            if link in links:
                taken[key] = links[link]
            elif link in promoted and place.texts and values.get(key) not in place.texts:
                taken[key] = (_output(name, -1), 0)  # the text outside is used, and which one isn't said
                self.nodes[taken[key][0]] = Node("with the subgraph's widget")
        label = text_of(values.get("value"))
        if kind == "SetNode" and label and taken:
            self.senders[place.name(label)] = next(iter(taken.values()))
        elif kind == "GetNode" and label:
            self.receivers[name] = place.name(label)
        elif node.get("mode") == BYPASSED:
            self.nodes |= _given_on(name, node, links)
        elif kind in self.subgraphs:
            self._enter(kind, name, node, links, place.depth + 1)
        else:
            self.nodes[name] = Node(kind, taken, values)

    def _enter(self, kind: str, name: str, node: dict[str, Any], links: dict[str, Link], depth: int) -> None:
        """Add what a node stands for. Its inputs are found by their names: it need not list all of them."""
        self.left -= self.sizes[kind]
        if self.left < 0 or depth > DEEPEST:
            return
        definition = self.subgraphs[kind]
        linked: dict[str | None, Link] = {}
        for given in _objects(node.get("inputs")):
            if (link := _id(given.get("link"))) in links:
                linked[text_of(given.get("name"))] = links[link]
        inputs = {
            i: linked[key]
            for i, one in enumerate(_objects(definition.get("inputs")))
            if (key := text_of(one.get("name"))) in linked
        }
        self.read(definition, _Place(name, inputs, frozenset(_values(node, "").values()), depth))


def _size(drawing: dict[str, Any]) -> int:
    """How much there is to look at."""
    parts = [drawing.get("inputs"), drawing.get("links")]
    nodes = _objects(drawing.get("nodes"))
    parts += [node.get(part) for node in nodes for part in ("inputs", "outputs", "widgets_values")]
    return 1 + len(nodes) + sum(len(_listed(part)) for part in parts)


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


@dataclass(frozen=True)
class _Link:
    name: str
    origin: str
    slot: int
    target: str | None
    target_slot: int | None


def _links(found: Any) -> Iterator[_Link]:
    """Links, written as [id, origin, its slot, target, its slot, type] or, in later versions, as objects."""
    fields = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    for link in _listed(found):
        if isinstance(link, dict):
            values = [cast(dict[str, Any], link).get(field) for field in fields]
        elif isinstance(link, list):
            values = [*cast(list[Any], link)[: len(fields)], None, None][: len(fields)]
        else:
            continue
        if len(values) == len(fields) and isinstance(values[2], int):
            name, origin = _id(values[0]), _id(values[1])
            if name is not None and origin is not None:
                slot = values[4] if isinstance(values[4], int) else None
                yield _Link(name, origin, values[2], _id(values[3]), slot)


def _listed(found: Any) -> list[Any]:
    """A list's items, or an object's values."""
    if isinstance(found, dict):
        return list(cast(dict[str, Any], found).values())
    return cast(list[Any], found) if isinstance(found, list) else []


def _objects(found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list):
        return []
    return [cast(dict[str, Any], one) for one in cast(list[Any], found) if isinstance(one, dict)]


def _id(value: Any) -> str | None:
    """Ids are whole numbers, in some versions texts."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(value)

"""Every key of the workflow file in tables: type, default, description, and the name of its value in the models.

The loader reads by these tables and `krt schema` prints them, so that the two cannot disagree. Keys that a later
version brings are listed as well, for a refusal in clear words.
"""

from dataclasses import dataclass, replace

from runtime.spec import names
from runtime.spec.algorithms import AlgorithmRunners
from runtime.spec.batch_keys import BATCH, OfKinds
from runtime.spec.batching_keys import BATCHING_FIELD
from runtime.spec.drivers import Drivers
from runtime.spec.fuse import Chains
from runtime.spec.kinds import DISPATCH, MODELS
from runtime.spec.model import DEFAULT_DEAD_LETTER_KEEP_S, ObjectStore, Order, State
from runtime.spec.record import Field, Record
from runtime.spec.replicas import Replicas
from runtime.spec.report import Fault, Report
from runtime.spec.resources import IMAGE_FIELD, RESOURCES_FIELD
from runtime.spec.secret_names import SECRETS_FIELD
from runtime.spec.sink_keys import SINK
from runtime.spec.sources import Joining, OneSource, Sources
from runtime.spec.tree import SHOWN_LENGTH, Items, Mapping, Text, Value
from runtime.spec.values import (
    AnyText,
    Choice,
    ClassName,
    Configuration,
    Duration,
    Environment,
    ExceptionNames,
    JsonSchema,
    Name,
    Number,
    Path,
    Size,
    Spot,
    Switch,
    WholeNumber,
    check_name,
    expect_mapping,
    expect_text,
    wrong_type,
)
from runtime.spec.workers import WORKERS

DROP = "drop"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """How long dead letters are kept in seconds; None where the file says `drop`."""

    def read(self, value: Value, spot: Spot, report: Report) -> float | None:
        if isinstance(value, Text) and value.text == DROP:
            return None
        if not isinstance(value, Mapping):
            raise wrong_type(value, spot, "{keep: 14d} or drop")
        read = KEEP.read(value, spot, report)
        return float(read.get("keep", DEFAULT_DEAD_LETTER_KEEP_S))

    def schema(self) -> JsonSchema:
        return {"anyOf": [{"const": DROP}, KEEP.schema()]}


# The short form of `order` and `state`: that, with every default.
ON = "true"


@dataclass(frozen=True, slots=True)
class Ordering:
    """`true`, or a mapping: messages are handled in the order of their state id."""

    def read(self, value: Value, spot: Spot, report: Report) -> Order:
        if isinstance(value, Text) and value.text == ON:
            return Order()
        if not isinstance(value, Mapping):
            raise wrong_type(value, spot, "true or {partitions: 16}")
        return Order(**ORDER.read(value, spot, report))

    def schema(self) -> JsonSchema:
        return {"anyOf": [{"const": True}, ORDER.schema()]}


@dataclass(frozen=True, slots=True)
class Stateful:
    """`true`, a class, or a mapping: ordered, with a state for each state id."""

    def read(self, value: Value, spot: Spot, report: Report) -> State:
        if isinstance(value, Text):
            return State() if value.text == ON else State(type=ClassName().read(value, spot, report))
        if not isinstance(value, Mapping):
            raise wrong_type(value, spot, "module:Class, true or {class: module:Class, partitions: 16, ttl: 30d}")
        return State(**STATE.read(value, spot, report))

    def schema(self) -> JsonSchema:
        return {"anyOf": [{"const": True}, ClassName().schema(), STATE.schema()]}


ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def node_title(node: Value, number: int) -> str:
    """Return how problems name a node: `node "score"`, or by its number (from 1) where it has no name."""
    name = node.get("name") if isinstance(node, Mapping) else None
    if isinstance(name, Text) and name.text:
        return f'node "{name.text[:SHOWN_LENGTH]}"'
    return f"the {ORDINALS[number - 1]} node" if number <= len(ORDINALS) else f"node number {number}"


@dataclass(frozen=True, slots=True)
class Nodes:
    """The list of nodes; each is left as it is written, because `defaults` come under it first."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[Mapping, ...]:
        if not isinstance(value, Items):
            raise wrong_type(value, spot, "a list of nodes: [{name: first}]")
        if not value.items:
            raise Fault(value.place, "the workflow has no node", "add one: {name: first}", "missing-key")
        found: list[Mapping] = []
        for number, item in enumerate(value.items, start=1):
            with report.collecting():
                found.append(expect_mapping(item, Spot("", node_title(item, number)), "{name: first}"))
        return tuple(found)

    def schema(self) -> JsonSchema:
        return {"type": "array", "items": _node_schema(), "minItems": 1}


@dataclass(frozen=True, slots=True)
class NodeDefaults:
    """Keys of every node: checked here once, and handed on as they are written."""

    def read(self, value: Value, spot: Spot, report: Report) -> Mapping:
        mapping = expect_mapping(value, spot)
        for entry in mapping.entries:
            if entry.key.text in NOT_SHARED:
                what = f'"{entry.key.text}" belongs to one node and has no default'
                report.add(Fault(entry.key.place, what, "write it at the nodes", "not-shared"))
        shared = tuple(entry for entry in mapping.entries if entry.key.text not in NOT_SHARED)
        defaults = Mapping(place=mapping.place, entries=shared, size=mapping.size)
        DEFAULTS.read(defaults, spot, report)
        return defaults

    def schema(self) -> JsonSchema:
        return DEFAULTS.schema()


RETRY = Record(
    {
        "attempts": Field(
            type=WholeNumber(most=1_000_000), default=5, description="Deliveries in all, the first included"
        ),
        "first": Field(
            type=Duration(), default="1s", attribute="first_s", description="Delay before the second attempt"
        ),
        "factor": Field(type=Number(1, 1000), default=2, description="Growth of the delay from attempt to attempt"),
        "max": Field(type=Duration(), default="1m", attribute="max_s", description="Longest delay"),
        "jitter": Field(type=Number(0, 1), default=0.2, description="Share of a delay that is random"),
        "never": Field(
            type=ExceptionNames(),
            default=[],
            description="Exception classes after which a message is a dead letter at once",
        ),
    }
)

KEEP = Record(
    {"keep": Field(type=Duration(positive=True), default="14d", description="How long dead letters are kept")}
)

# The most partitions: each is a consumer at the server, and a reader in every replica.
MAX_PARTITIONS = 256

_PARTITIONS = Field(
    type=WholeNumber(most=MAX_PARTITIONS),
    default=16,
    description="State ids are spread over so many; each handles one message at a time",
)
ORDER = Record({"partitions": _PARTITIONS})
STATE = Record(
    {
        "class": Field(
            type=ClassName(),
            attribute="type",
            description="A dataclass or model whose fields have defaults; the handler's State by default, else a dict",
        ),
        "partitions": _PARTITIONS,
        "ttl": Field(
            type=Duration(positive=True, or_none=True),
            default="30d",
            attribute="ttl_s",
            description="How long a state is kept after the last message of its id, or none for ever",
        ),
    }
)

STREAM = Record(
    {
        "replicas": Field(type=WholeNumber(most=5), default=1, description="Servers that hold the stream"),
        "storage": Field(type=Choice(("file", "memory")), default="file", description="Where the server keeps it"),
        "keep": Field(
            type=Duration(),
            default="24h",
            attribute="keep_s",
            description="How long handled messages stay readable, within half of max_bytes",
        ),
        "max_bytes": Field(type=Size(), default="1Gi", description="A full stream refuses, it never discards"),
    },
    owner="the stream",
)

OBJECT_STORE = Record(
    {
        "scope": Field(
            type=Choice(("workflow", "project")),
            default="workflow",
            description="Whose it is: this workflow's, or shared by the workflows of the version",
        ),
        "description": Field(type=AnyText(), description="Text for people"),
        "keep": Field(
            type=Duration(positive=True, or_none=True),
            default="none",
            attribute="keep_s",
            description="How long an object is kept, or none for ever",
        ),
        "max_bytes": Field(type=Size(), default="1Gi", description="A full store refuses, it never discards"),
    }
)


@dataclass(frozen=True, slots=True)
class Objects:
    """The object stores by their names."""

    def read(self, value: Value, spot: Spot, report: Report) -> dict[str, ObjectStore]:
        found: dict[str, ObjectStore] = {}
        for entry in expect_mapping(value, spot).entries:
            with report.collecting():
                name = StoreName().read(entry.key, spot, report).text
                if name == names.CLAIMS_STORE:
                    what = f'the object store "{name}" belongs to the runtime'
                    raise Fault(entry.key.place, what, "choose another name", "reserved-name")
                here = Spot("", f'the object store "{name}"')
                found[name] = ObjectStore(**OBJECT_STORE.read(entry.value, here, report))
        return found

    def schema(self) -> JsonSchema:
        return {
            "type": "object",
            "propertyNames": {
                "pattern": f"^{names.NAME_PATTERN.pattern}$",
                "maxLength": names.MAX_NAME_LENGTH,
                "not": {"const": names.CLAIMS_STORE},
            },
            "additionalProperties": OBJECT_STORE.schema(),
        }


@dataclass(frozen=True, slots=True)
class StoreName:
    """The name of an object store, with its place; whether there is one is the loader's business."""

    def read(self, value: Value, spot: Spot, report: Report) -> Text:
        text = expect_text(value, spot, "the name of an object store")
        check_name(text.text, text)
        return text

    def schema(self) -> JsonSchema:
        return Name().schema()


_HANDLER_NODE = {
    "name": Field(type=Name(), required=True, description="Name of the node, unique in the workflow"),
    "kind": Field(
        type=Choice(("handler", "models", "dispatch", "batch")), default="handler", description="What the node is"
    ),
    "description": Field(type=AnyText(), description="Text shown by the command line"),
    "handler": Field(type=Path(), description="Path of the handler beside the file; NAME/handler.py by default"),
    "from": Field(
        type=Sources(),
        attribute="sources",
        description="entrypoint, node or node.channel, or a list of these; the node above by default",
    ),
    "join": Field(type=Joining(), description="In place of from: wait for all parts of a set, then handle them"),
    "replicas": Field(
        type=Replicas(),
        default=1,
        description="Processes that share the work; {min, max, lag}: Kubernetes scales them",
    ),
    "concurrency": Field(
        type=WholeNumber(most=10_000),
        description="Messages handled at once by a replica; 16 for async def, else 1; with batch: calls at once, 1",
    ),
    **WORKERS,
    "batch": BATCHING_FIELD,
    "timeout": Field(
        type=Duration(positive=True, or_none=True),
        default="60s",
        attribute="timeout_s",
        description="Limit of one delivery, or none",
    ),
    "retry": Field(type=RETRY, description="When a handler that raised is called again"),
    "dead_letter": Field(
        type=DeadLetter(),
        default={"keep": "14d"},
        attribute="dead_letter_keep_s",
        description="How long given-up messages are kept, or drop: counted and logged, not stored",
    ),
    "order": Field(type=Ordering(), description="Handle the messages of one state id in order, one at a time"),
    "state": Field(type=Stateful(), description="The same, and keep a ctx.state for each state id"),
    "atomic": Field(
        type=Switch(),
        default=False,
        description="Store all outputs of one delivery together, or none; needs nats-server 2.12",
    ),
    "object_store": Field(
        type=StoreName(), description="Which of objects is ctx.object_store; the only one declared by default"
    ),
    "env": Field(type=Environment(), description="Variables of the process: text as written"),
    "config": Field(type=Configuration(), description="Values of the node's configuration scope"),
    "secrets": SECRETS_FIELD,
    "resources": RESOURCES_FIELD,
    "image": IMAGE_FIELD,
}
_PLANNED = {
    "versions": "runs a second version beside the first",
}

_ONLY_WITH_A_HANDLER = {"handler", "batch", "order", "state", "atomic", *WORKERS}
_ANY_NODE = {key: known for key, known in _HANDLER_NODE.items() if key not in _ONLY_WITH_A_HANDLER}
_KEYS_OF_KINDS = {
    "handler": _ONLY_WITH_A_HANDLER,
    "models": MODELS.keys(),
    "dispatch": DISPATCH.keys(),
    "batch": BATCH.keys(),
}


def _node_of(kind: str, fields: dict[str, Field]) -> Record:
    """Return the table of a kind, which tells the keys of the others from those that nobody knows."""
    elsewhere = {
        key: f"is for nodes of kind {other}, and this one is of kind {kind}"
        for other, keys in _KEYS_OF_KINDS.items()
        for key in keys
        if key not in fields
    }
    # A handler is what a node has unless it says otherwise, so its writer may have meant a sink.
    beside = tuple(SINK) if kind == "handler" else ()
    return Record(fields, _PLANNED, elsewhere=elsewhere, inside=_INSIDE, beside=beside)


# What a node has no key for, as it is written.
_INSIDE = {
    "when": "write it in from: {node: clean, when: {header: {kind: scan}}}",
    "attempts": "write retry: {attempts: 3}",
    "cpu": "write resources: {cpu: 2}",
    "memory": "write resources: {memory: 8Gi}",
    "gpu": "write resources: {gpu: 1}",
    "collection": "write sink: {collection: scores}",
    "measurement": "write sink: {measurement: score}",
}
# The keys of a node by its kind, and those of all kinds together.
NODE_KINDS = {
    "handler": _node_of("handler", _HANDLER_NODE),
    "models": _node_of("models", _ANY_NODE | MODELS),
    "dispatch": _node_of("dispatch", _ANY_NODE | DISPATCH),
    "batch": _node_of("batch", _ANY_NODE | BATCH),
}
_OF_OTHER_KINDS = {key: replace(known, required=False) for key, known in (BATCH | MODELS | DISPATCH | SINK).items()}
for _key in MODELS.keys() & BATCH.keys() - _HANDLER_NODE.keys():
    _OF_OTHER_KINDS[_key] = replace(_OF_OTHER_KINDS[_key], type=OfKinds((MODELS[_key].type, BATCH[_key].type)))
# Limits of a process, and on nodes of kind batch those of a run.
_RESOURCES = replace(RESOURCES_FIELD, type=OfKinds((RESOURCES_FIELD.type, BATCH["resources"].type)))
# The runner's, and on nodes of kind batch the model's.
_IMAGE = replace(IMAGE_FIELD, type=OfKinds((IMAGE_FIELD.type, BATCH["image"].type)))
_FURTHER = {key: known for key, known in _OF_OTHER_KINDS.items() if key not in _HANDLER_NODE}
NODE = Record(_HANDLER_NODE | _FURTHER | {"resources": _RESOURCES, "image": _IMAGE}, _PLANNED)
# A node with `sink` has no kind to choose, and nothing that is about code.
_SINK_FIELDS = {key: known for key, known in (_ANY_NODE | SINK).items() if key != "kind"}
SINK_NODE = Record(
    _SINK_FIELDS,
    _PLANNED,
    elsewhere={key: "is for nodes with code, and this one is a sink" for key in NODE.fields if key not in _SINK_FIELDS},
)


def _node_schema() -> JsonSchema:
    """Return every key of a node, and for each kind the keys that it requires, and those that it has not."""
    kinds: list[JsonSchema] = []
    for kind, record in NODE_KINDS.items():
        # Holds for a node without `kind` as well, which is one with a handler.
        is_one: JsonSchema = {"properties": {"kind": {"const": kind}}}
        if kind != "handler":
            is_one["required"] = ["kind"]
        own = {key: known.schema() for key, known in record.fields.items() if known.type != NODE.fields[key].type}
        others = dict.fromkeys(record.elsewhere, False)
        kinds.append({"if": is_one, "then": {"required": record.schema()["required"], "properties": own | others}})
    kinds.append({"if": {"required": ["sink"]}, "then": {"properties": dict.fromkeys(SINK_NODE.elsewhere, False)}})
    return {**NODE.schema(), "required": ["name"], "allOf": kinds}


# Keys that make no sense for every node at once. The image of them all is an option of `krt compose` and its like.
NOT_SHARED = {"name", "kind", "description", "handler", "from", "join", "sink", "image"}
DEFAULTS = Record(
    {key: known for key, known in NODE.fields.items() if key not in NOT_SHARED},
    {key: what for key, what in NODE.planned.items() if key not in NOT_SHARED},
    owner='"defaults"',
)

WORKFLOW = Record(
    {
        "name": Field(type=Name(), required=True, description="Name of the workflow"),
        "version": Field(
            type=Name(),
            default="dev",
            description="Version of the code; another version is another deployment beside this one",
        ),
        "krt": Field(type=Choice(("1",)), default=1, description="Number of this schema"),
        "description": Field(type=AnyText(), description="Text shown by the command line"),
        "nodes": Field(type=Nodes(), required=True, description="The nodes; their order is the wiring without from"),
        "output": Field(
            type=OneSource(),
            description="node or node.channel whose messages answer the callers; the last node by default",
        ),
        "fuse": Field(type=Chains(), description="Chains of nodes, each of which runs in one process, hop by hop"),
        "defaults": Field(type=NodeDefaults(), description="Keys of every node, mappings merged key by key"),
        "config": Field(type=Configuration(), description="Values of the workflow's configuration scope"),
        "objects": Field(type=Objects(), description="Object stores by their names, for ctx.object_store"),
        "drivers": Field(type=Drivers(), description="Processes that join it to the outside, by their names"),
        "algorithms": Field(type=AlgorithmRunners(), description="Runners of algorithms deployed with it, by names"),
        "stream": Field(type=STREAM, description="The stream that holds every message of the workflow"),
    },
    owner="the workflow",
)

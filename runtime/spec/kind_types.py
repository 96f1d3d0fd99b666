"""What nodes without a handler of the user's read and send, as far as their kind says it. Pure."""

from runtime.spec.edges import EdgeType, HandlerTypes, JsonSchema
from runtime.spec.sink import DocumentSink, SinkSpec

# Keys of a message that belong to others travel along.
_JOB: JsonSchema = {
    "title": "AlgorithmJob",
    "type": "object",
    "required": ["algorithm", "payload"],
    "properties": {"algorithm": {"type": "string"}, "payload": {"type": "object"}},
    "additionalProperties": True,
}
_RESULT: JsonSchema = {
    "title": "AlgorithmResult",
    "type": "object",
    "required": ["algorithm", "result", "runner", "version", "time_ms"],
    "properties": {
        "algorithm": {"type": "string"},
        "result": {},
        "runner": {"type": "string"},
        "version": {"type": "string"},
        "time_ms": {"type": "number"},
    },
    "additionalProperties": True,
}

# Types of what a sink takes as the key of a document or the time of a point, and as a field of a point.
_KEY, _FIELD = ("string", "integer"), ("number", "boolean")

# By kind; a kind that is not here says nothing, as a handler without types.
KIND_TYPES = {
    "dispatch": HandlerTypes(
        inputs={"": EdgeType(kind="json", json_schema=_JOB)}, output=EdgeType(kind="json", json_schema=_RESULT)
    )
}


def sink_types(spec: SinkSpec) -> HandlerTypes:
    """Return what a sink reads: an object with the fields that its document, or its point, is made of."""
    asked = (
        {spec.key: _KEY} if isinstance(spec, DocumentSink) else {**dict.fromkeys(spec.fields, _FIELD), spec.time: _KEY}
    )
    # An inner field is not compared, and what is not named is "".
    fields = {name: {"type": list(types)} for name, types in asked.items() if name and "." not in name}
    schema: JsonSchema = {
        "title": "Document" if isinstance(spec, DocumentSink) else "Point",
        "type": "object",
        "required": list(fields),
        "properties": fields,
        "additionalProperties": True,
    }
    return HandlerTypes(inputs={"": EdgeType(kind="json", json_schema=schema)})

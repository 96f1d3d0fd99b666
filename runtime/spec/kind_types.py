"""What nodes without a handler of the user's read and send, as far as their kind says it. Pure."""

from runtime.spec.edges import EdgeType, HandlerTypes, JsonSchema

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

# By kind; a kind that is not here says nothing, as a handler without types.
KIND_TYPES = {
    "dispatch": HandlerTypes(
        inputs={"": EdgeType(kind="json", json_schema=_JOB)}, output=EdgeType(kind="json", json_schema=_RESULT)
    )
}

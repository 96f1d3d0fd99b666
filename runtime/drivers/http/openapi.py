"""The OpenAPI document of a driver: its routes, with the schemas of the workflow's own types. Pure."""

from collections.abc import Mapping
from typing import Any

from runtime.drivers.base import WorkflowSchema
from runtime.drivers.http import media
from runtime.drivers.http.answers import BYTES, JSON, PROTOBUF
from runtime.drivers.http.events import EVENT_STREAM
from runtime.drivers.http.request import (
    DURATION_PATTERN,
    MAX_STATE_ID_CHARACTERS,
    STATE_ID_HEADER,
    TIMEOUT_HEADER,
    TIMEOUT_PATTERN,
)
from runtime.payload import Native
from runtime.spec.schema_check import DEFINITIONS
from runtime.version import __version__

Json = dict[str, Any]

SCHEMAS = "#/components/schemas/"
# Of a file, and of what has a form of its own.
ANY_TYPE = "*/*"
BINARY: Json = {"type": "string", "format": "binary"}

ERROR: Json = {
    "type": "object",
    "description": "Why there are no outputs.",
    "required": ["outcome", "detail"],
    "properties": {
        "outcome": {"type": "string"},
        "detail": {"type": "string"},
        "faults": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "problem"],
                "properties": {"field": {"type": "string"}, "problem": {"type": "string"}},
            },
        },
        "request_id": {"type": "string"},
        "node": {"type": "string", "description": "The node that gave up."},
    },
}
TASK: Json = {
    "type": "object",
    "required": ["task_id", "state"],
    "properties": {"task_id": {"type": "string"}, "state": {"const": "pending"}},
}
TIMEOUT: Json = {"type": "string", "pattern": f"^{TIMEOUT_PATTERN}$", "examples": ["2.5s"]}
WAIT: Json = {"type": "string", "pattern": f"^{DURATION_PATTERN}$", "examples": ["10s"]}
READY: Json = {"type": "object", "required": ["ready"], "properties": {"ready": {"const": True}}}
HEALTHY: Json = {"type": "object", "required": ["healthy"], "properties": {"healthy": {"const": True}}}

REFUSALS = {
    "400": "The body is no JSON, or does not fit the inputs; nothing was sent.",
    "401": "No known token.",
    "403": "The token does not allow it.",
    "404": "There is no such task, as it is unknown or its result has expired; or no such algorithm.",
    "408": "The body came too slowly.",
    "409": "The task was cancelled, or has ended before.",
    "413": "The body is too large, or the outputs are.",
    "415": "The body's Content-Type is neither JSON nor bytes.",
    "429": "Busy: too much is in flight, or the wait would be too long.",
    "500": "A node has failed.",
    "503": "The stream is full, or NATS or the workflow cannot be reached.",
    "504": "No answer within the request's time.",
}
SENDING = ("400", "408", "413", "415", "429", "500", "503", "504")


def openapi(workflow: str, schema: WorkflowSchema, *, has_tokens: bool) -> Json:
    """Return the document; types of handlers that say nothing about themselves are any value."""
    components: Json = {"Error": ERROR, "Task": TASK}
    inputs = add_component("Inputs", schema.inputs, components)
    outputs = add_component("Outputs", schema.outputs, components)
    body, answer = _body(inputs, media.native_of(schema.inputs)), _answer(outputs, media.native_of(schema.outputs))
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": workflow, "version": __version__, "description": f"The workflow `{workflow}` over HTTP."},
        "paths": _paths(body, answer, ("401", "403") if has_tokens else ()),
        "components": {"schemas": components},
    }
    if has_tokens:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def add_component(name: str, schema: Mapping[str, Any], components: Json) -> Json:
    """Put a schema with its definitions among the components, and return the reference to it."""
    for inner, definition in schema.get("$defs", {}).items():
        components[f"{name}.{inner}"] = _moved(definition, name)
    components[name] = _moved({key: value for key, value in schema.items() if key != "$defs"}, name)
    return {"$ref": SCHEMAS + name}


def _moved(value: Any, name: str) -> Any:
    """Return a schema with the references into its own definitions led to the components."""
    if isinstance(value, Mapping):
        moved = {key: _moved(inner, name) for key, inner in value.items()}
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith(DEFINITIONS):
            moved["$ref"] = f"{SCHEMAS}{name}.{reference.removeprefix(DEFINITIONS)}"
        return moved
    return [_moved(inner, name) for inner in value] if isinstance(value, list) else value


def _body(inputs: Json, native: Native | None) -> Json:
    """Return what a request may hold. native: the kind of value that the workflow takes."""
    if native is Native.FILE:
        return {"required": True, "content": {ANY_TYPE: {"schema": BINARY}}}
    wrapped = {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {
            "inputs": inputs,
            "state_id": {"type": "string", "maxLength": MAX_STATE_ID_CHARACTERS},
            "timeout": {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, TIMEOUT], "description": "Seconds."},
        },
    }
    # Inputs with a field `inputs` are read as the second form, so that they cannot be sent in the first.
    plain = {"allOf": [inputs, {"not": {"type": "object", "required": ["inputs"]}}]}
    own = {} if native is None else {media.MEDIA_TYPES[native]: {"schema": BINARY}}
    return {"required": True, "content": {JSON: {"schema": {"anyOf": [plain, wrapped]}}, **own}}


def _answer(outputs: Json, native: Native | None) -> Json:
    """Return the forms of an output. native: the kind of value that the workflow answers with."""
    if native is Native.FILE:
        return {ANY_TYPE: {"schema": BINARY}}
    if native is not None:
        return {JSON: {}, media.MEDIA_TYPES[native]: {"schema": BINARY}}
    return {JSON: {"schema": outputs}, BYTES: {}, PROTOBUF: {}}


def _paths(body: Json, answer: Json, access: tuple[str, ...]) -> Json:
    events = {EVENT_STREAM: {"schema": {"type": "string"}}}
    task = {JSON: {"schema": {"$ref": SCHEMAS + "Task"}}}
    headers = [
        parameter(STATE_ID_HEADER, "header", {"type": "string", "maxLength": MAX_STATE_ID_CHARACTERS}),
        parameter(TIMEOUT_HEADER, "header", TIMEOUT),
    ]
    task_id = parameter("task_id", "path", {"type": "string"})
    wait = parameter("wait", "query", WAIT)
    accepted = {**responses("Taken", task, (*SENDING, *access), "202")}
    accepted["202"]["links"] = {
        name: {"operationId": name, "parameters": {"task_id": "$response.body#/task_id"}}
        for name in ("task_result", "cancel_task")
    }
    result = responses("The result", answer, ("400", "404", "409", "413", "429", "500", "503", "504", *access))
    result["202"] = _response("Not ended yet", task)
    cancelled = responses("Cancelled", {}, ("404", "409", "503", *access), "204")
    return {
        "/predict": {"post": operation("predict", "Send inputs and wait for the outputs", headers, body,
            responses("The outputs; as server-sent events for several of them", {**answer, **events},
                       (*SENDING, *access)))},
        "/tasks": {"post": operation("create_task", "Send inputs, fetch the outputs later", headers, body, accepted)},
        "/tasks/{task_id}": {
            "get": operation("task_result", "Fetch the result of a task", [task_id, wait], None, result),
            "delete": operation("cancel_task", "Cancel a task that has not ended", [task_id], None, cancelled),
        },
        "/schema": {"get": operation("schema", "The schemas of inputs and outputs", [], None,
            responses("The schemas", {JSON: {"schema": {"type": "object"}}}, access))},
        "/ready": {"get": operation("ready", "Whether NATS and the workflow can be reached", [], None,
            responses("Ready", {JSON: {"schema": READY}}, ("503", *access)))},
        "/health": {"get": {**operation("health", "Whether this process lives", [], None,
            responses("Alive", {JSON: {"schema": HEALTHY}}, ())), "security": []}},
    }  # fmt: skip


def operation(name: str, summary: str, parameters: list[Json], body: Json | None, responses: Json) -> Json:
    operation: Json = {"operationId": name, "summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    return operation if body is None else {**operation, "requestBody": body}


def parameter(name: str, place: str, schema: Json) -> Json:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def responses(text: str, content: Json, refusals: tuple[str, ...], status: str = "200") -> Json:
    error = {JSON: {"schema": {"$ref": SCHEMAS + "Error"}}}
    return {status: _response(text, content)} | {code: _response(REFUSALS[code], error) for code in sorted(refusals)}


def _response(text: str, content: Json) -> Json:
    return {"description": text, **({"content": content} if content else {})}

"""The part of a driver's OpenAPI document about batch runs. Pure."""

from collections.abc import Sequence

from runtime.drivers.http.answers import BYTES, JSON
from runtime.drivers.http.openapi import WAIT, Json, operation, parameter, responses

TAG = "runs"
TEXT = "text/plain"
MAX_REQUEST_ID_CHARACTERS = 200

TAKEN: Json = {
    "type": "object",
    "required": ["id", "runIds"],
    "properties": {"id": {"type": "string"}, "runIds": {"type": "array", "items": {"type": "string"}}},
}
OBJECT: Json = {"type": "object"}
# How a run that was waited for has ended, beside what every request may be answered.
ENDINGS = ("409", "500", "504")
SENDING = ("400", "404", "408", "413", "415", "429", "503")


def add_runs(document: Json, nodes: Sequence[str], states: Sequence[str], *, has_tokens: bool) -> None:
    """Add the operations to a document. nodes: those that may be asked for runs. states: of runs."""
    access = ("401", "403") if has_tokens else ()
    run_id, path = parameter("id", "path", {"type": "string"}), parameter("path", "path", {"type": "string"})
    looked = ("404", "503", *access)
    shown = responses("The record", {JSON: {"schema": OBJECT}}, looked)
    cancelled = responses("The record; it ends when its processes have", {JSON: {"schema": OBJECT}},
                          ("404", "409", "503", *access), "202")  # fmt: skip
    paths: dict[str, Json] = {
        "/runs": {"get": _list(states, access)},
        "/runs/{id}": {
            # The id of a node here: OpenAPI tells paths apart by their form, and not by the names in it.
            "post": _submit(nodes, access),
            "get": operation("run", "Show a run", [run_id], None, shown),
            "delete": operation("cancel_run", "Cancel a run", [run_id], None, cancelled),
        },
        "/runs/{id}/logs": {"get": operation("run_logs", "What a run writes", [run_id], None,
            responses("What it has written, or writes from now on", {TEXT: {}}, looked))},
        "/runs/{id}/artifacts": {"get": operation("run_artifacts", "The files of a run", [run_id], None,
            responses("The files", {JSON: {"schema": OBJECT}}, looked))},
        "/runs/{id}/artifacts/{path}": {"get": operation("run_artifact", "A file of a run", [run_id, path], None,
            responses("The file", {JSON: {}, BYTES: {}}, looked))},
    }  # fmt: skip
    for each in paths.values():
        for described in each.values():
            described["tags"] = [TAG]
    document["paths"] |= paths


def _submit(nodes: Sequence[str], access: tuple[str, ...]) -> Json:
    node = parameter("id", "path", {"type": "string", "enum": list(nodes)})
    key = parameter("Idempotency-Key", "header", {"type": "string", "minLength": 1,
                    "maxLength": MAX_REQUEST_ID_CHARACTERS, "pattern": "^[ -~]+$"})  # fmt: skip
    body: Json = {"required": True, "content": {JSON: {"schema": OBJECT}}}
    said = responses("How the runs have ended, if that was waited for", {JSON: {"schema": OBJECT}},
                     (*SENDING, *ENDINGS, *access))  # fmt: skip
    said |= responses("Taken", {JSON: {"schema": TAKEN}}, (), "202")
    said |= responses("The model does not support this input", {JSON: {"schema": OBJECT}}, (), "422")
    return operation("submit_run", "Ask a node for runs", [node, key, parameter("wait", "query", WAIT)], body, said)


def _list(states: Sequence[str], access: tuple[str, ...]) -> Json:
    asked = [
        parameter("state", "query", {"type": "string", "enum": list(states)}),
        parameter("node", "query", {"type": "string"}),
        parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 1_000}),
    ]
    listed = responses("The records, the newest first", {JSON: {"schema": OBJECT}}, ("400", "503", *access))
    return operation("runs", "List runs", asked, None, listed)

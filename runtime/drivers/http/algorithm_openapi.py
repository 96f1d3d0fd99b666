"""The part of a driver's OpenAPI document about algorithms: one operation for each that is served now. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runtime.drivers.http.answers import JSON
from runtime.drivers.http.openapi import (
    TIMEOUT,
    Json,
    add_component,
    operation,
    parameter,
    responses,
)
from runtime.drivers.http.request import TIMEOUT_HEADER

# What marks an operation as an algorithm's, for the page.
TAG = "algorithms"

REFUSALS = ("400", "404", "408", "413", "415", "429", "500", "503", "504")
LISTED: Json = {"type": "object", "additionalProperties": {"type": "object"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """An algorithm with its schemas. response: None where its results are not hinted."""

    name: str
    hash: str
    doc: str
    request: dict[str, Any]
    response: dict[str, Any] | None


def add_algorithms(document: Json, served: Iterable[Described], *, has_tokens: bool) -> None:
    """Add the operations to a document, and their schemas to its components."""
    access = ("401", "403") if has_tokens else ()
    paths, components = document["paths"], document["components"]["schemas"]
    for each in served:
        paths[f"/run/{each.name}"] = {"post": _run(each, components, access)}
    for path, text in (("/algorithms", "What is served now"), ("/schemas", "The schemas of what is served now")):
        said = responses(text, {JSON: {"schema": LISTED}}, ("503", *access))
        paths[path] = {"get": operation(path[1:], text, [], None, said)}


def _run(algorithm: Described, components: Json, access: tuple[str, ...]) -> Json:
    # A name of an algorithm has no dot, so that these meet no type of the workflow.
    request = add_component(f"Algorithm.{algorithm.name}", algorithm.request, components)
    result = add_component(f"Algorithm.{algorithm.name}.result", algorithm.response or {}, components)
    answer = {"type": "object", "required": ["result"], "properties": {"result": result}}
    body = {"required": True, "content": {JSON: {"schema": request}}}
    said = responses("The result", {JSON: {"schema": answer}}, (*REFUSALS, *access))
    headers = [parameter(TIMEOUT_HEADER, "header", TIMEOUT)]
    return {
        **operation(f"run_{algorithm.name}", algorithm.doc or f"Run {algorithm.name}", headers, body, said),
        "tags": [TAG],
    }

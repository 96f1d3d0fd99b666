"""What `krt schema WORKFLOW` prints: the schema of what each node reads and sends."""

from collections.abc import Mapping
from typing import Any

from runtime.spec.edges import HandlerTypes, edge_schema
from runtime.spec.model import Workflow

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def workflow_schemas(workflow: Workflow, known: Mapping[str, HandlerTypes]) -> dict[str, Any]:
    """Return the schemas by node: `request` and `response`, and `channels` where it has some; {} is any message.

    A node with handlers for single nodes has `requests` by them, too. A response of null: it returns nothing.
    """
    nodes = {node.name: _node(known.get(node.name)) for node in workflow.nodes}
    return {"$schema": DIALECT, "workflow": workflow.name, "nodes": nodes}


def _node(types: HandlerTypes | None) -> dict[str, Any]:
    if types is None:
        return {"request": {}, "response": {}}
    requests = {node: edge_schema(edge) for node, edge in types.inputs.items() if node}
    channels = {name: edge_schema(edge) for name, edge in (types.channels or {}).items()}
    return {
        "request": edge_schema(types.input_from("")),
        "response": None if types.output is None else edge_schema(types.output),
        **({"requests": requests} if requests else {}),
        **({"channels": channels} if channels else {}),
    }

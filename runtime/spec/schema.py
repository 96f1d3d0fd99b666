"""The JSON Schema of the workflow file, for editors; printed by `krt schema`. It comes from the loader's own tables."""

from runtime.spec.fields import WORKFLOW
from runtime.spec.values import JsonSchema


def workflow_schema() -> JsonSchema:
    """Return the schema. What it cannot say (wiring, files, handlers) is left to `krt check`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "KRT workflow",
        "description": "One workflow: its nodes, what they read, and how they are run",
        **WORKFLOW.schema(),
    }

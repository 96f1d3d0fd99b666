"""Answers of a workflow as JSON, one line each."""

from typing import Any

from runtime.drivers.records import json_bytes
from runtime.drivers.records import plain as plain


def json_line(value: Any) -> str:
    """Return an answer, or a record that holds one, as JSON in one line; see `plain` for what JSON does not know."""
    return json_bytes(value).decode()

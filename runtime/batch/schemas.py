"""JSON Schemas of what goes into a model and of what comes out. `jsonschema` is imported by workers that have some."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from runtime.errors import ConfigError

# Faults that are told of one document, and characters of each: they go into records and callbacks.
MAX_FAULTS = 10
MAX_FAULT_TEXT = 200


class Schema:
    """One schema; made once, used for every run."""

    def __init__(self, validator: Any) -> None:
        self._validator = validator

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a schema, of the draft that it names (2020-12 by default). Raises ConfigError."""
        try:
            import jsonschema
        except ImportError as error:
            raise ConfigError("schemas of a batch node need jsonschema: install krt-runtime[batch]") from error
        try:
            said = json.loads(path.read_bytes())
            kind = jsonschema.validators.validator_for(said, default=jsonschema.Draft202012Validator)
            kind.check_schema(said)
        except (OSError, ValueError, jsonschema.SchemaError) as error:
            message = error.message if isinstance(error, jsonschema.SchemaError) else str(error)
            raise ConfigError(f"{path} is no JSON Schema: {message}; correct it, or remove it from the node") from error
        return cls(kind(said))

    def faults(self, value: Any) -> list[str]:
        """Return what is wrong with a document, one sentence for each fault with its place; none for a valid one."""
        found = sorted(self._validator.iter_errors(value), key=lambda fault: [str(step) for step in fault.path])
        told = [_told(fault) for fault in found[:MAX_FAULTS]]
        return [*told, f"and {len(found) - MAX_FAULTS} more"] if len(found) > MAX_FAULTS else told


def load_schemas(base: Path, paths: Mapping[str, str]) -> dict[str, Schema | None]:
    """Return the schemas at these paths below a folder, None where there is none. Raises ConfigError."""
    return {name: Schema.load(base / path) if path else None for name, path in paths.items()}


def _told(fault: Any) -> str:
    place = ".".join(str(step) for step in fault.path)
    text = fault.message if len(fault.message) <= MAX_FAULT_TEXT else f"{fault.message[: MAX_FAULT_TEXT - 1]}…"
    return f"{place}: {text}" if place else text

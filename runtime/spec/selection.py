"""Which messages nodes leave out by `when`: the conditions, the rule itself, and how a stream tells those who look on.

Pure.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from runtime.payload_json import value_at
from runtime.spec import names
from runtime.spec.frozen import Frozen

# Metadata of a stream: what its nodes leave out, as the JSON of a `SelectionSpec`.
SELECTION_METADATA = "krt-selection"

# What the field of a condition may be compared with.
JsonScalar = str | int | float | bool | None


class Conditions(Frozen):
    """What the messages of a source have to fit, by name: one of the values of each header and of each field.

    fields: paths into a payload that is a JSON object.
    """

    headers: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    fields: dict[str, tuple[JsonScalar, ...]] = Field(default_factory=dict)

    def unfit_header(self, headers: Mapping[str, str]) -> str:
        """Return the first header that does not fit, as people read it, "" where all do."""
        return next(
            (f"header '{name}'" for name, values in self.headers.items() if headers.get(name) not in values), ""
        )

    def unfit_field(self, data: Any) -> str:
        """Return the first field of a payload's value that does not fit, as people read it, "" where all do."""
        unfit = (path for path, values in self.fields.items() if not _is_one_of(value_at(data, path), values))
        return next((f"field '{path}'" for path in unfit), "")


# Of a source that is read as a whole.
NO_CONDITIONS = Conditions()


class SelectionSpec(Frozen):
    """The conditions of a workflow's nodes. nodes: by node and, as in `NodeSpec.when`, by subject."""

    nodes: dict[str, dict[str, Conditions]] = Field(default_factory=dict)

    def conditions(self, node: str, subject: str) -> Conditions:
        """Return what a node asks of the messages of a subject, which may be that of a partition.

        Not asked of an ERROR, nor of what was redriven: those pass.
        """
        return self.nodes.get(node, {}).get(names.unpartitioned_subject(subject), NO_CONDITIONS)


def _is_one_of(value: Any, values: tuple[JsonScalar, ...]) -> bool:
    """Compare as JSON does, where 1 is 1.0, and true is no number."""
    return any(value == each and isinstance(value, bool) is isinstance(each, bool) for each in values)

"""Which messages nodes leave out by `when`, as a stream tells those who look on; and the rule itself. Pure."""

from collections.abc import Mapping

from pydantic import Field

from runtime.spec import names
from runtime.spec.frozen import Frozen
from runtime.spec.node import Conditions

# Metadata of a stream: what its nodes leave out, as the JSON of a `SelectionSpec`.
SELECTION_METADATA = "krt-selection"


def unfit_header(conditions: Conditions, headers: Mapping[str, str]) -> str | None:
    """Return the first header that does not fit, None where all do."""
    return next((header for header, values in conditions.items() if headers.get(header) not in values), None)


class SelectionSpec(Frozen):
    """The conditions of a workflow's nodes. nodes: by node and, as in `NodeSpec.when`, by subject."""

    nodes: dict[str, dict[str, Conditions]] = Field(default_factory=dict)

    def leaves_out(self, node: str, subject: str, headers: Mapping[str, str]) -> bool:
        """Say whether a node leaves out a message of a subject, which may be that of a partition.

        Not asked of an ERROR, nor of what was redriven: those pass.
        """
        conditions = self.nodes.get(node, {}).get(names.unpartitioned_subject(subject), {})
        return unfit_header(conditions, headers) is not None

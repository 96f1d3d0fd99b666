"""The key `secrets` of nodes, drivers and runners of algorithms: which variables are handed to their processes.

A file holds no value of a secret. What looks like one is refused, and never quoted.
"""

import re
from dataclasses import dataclass
from typing import Any

from runtime.spec.record import Field
from runtime.spec.report import Fault, Report
from runtime.spec.tree import Entry, Items, Mapping, Text, Value
from runtime.spec.values import VARIABLE, JsonSchema, Spot, check_variable

# A Secret of Kubernetes, and one of its keys.
REFERENCE = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/[-._a-zA-Z0-9]{1,253}")


@dataclass(frozen=True, slots=True)
class SecretNames:
    """A list of names of variables, or a mapping of them to where a cluster keeps their values: `secret/key`."""

    def read(self, value: Value, spot: Spot, report: Report) -> dict[str, str]:
        """Return the places by variable, "" where there is none."""
        found: dict[str, str] = {}
        if isinstance(value, Mapping):
            for entry in value.entries:
                with report.collecting():
                    found[entry.key.text] = _place(entry, spot)
        elif isinstance(value, Items):
            for item in value.items:
                with report.collecting():
                    found[_name(item, spot)] = ""
        else:
            raise Fault(value.place, f"{spot} is no list", "give a list of names: [API_TOKEN]", "wrong-type")
        return found

    def schema(self) -> JsonSchema:
        name = {"type": "string", "pattern": f"^{VARIABLE.pattern}$"}
        place = {"type": "string", "pattern": f"^{REFERENCE.pattern}$"}
        places = {"type": "object", "propertyNames": name, "additionalProperties": place}
        return {"anyOf": [{"type": "array", "items": name}, places]}


SECRETS_FIELD = Field(
    type=SecretNames(),
    default=[],
    description="Names of variables to pass on, or {NAME: secret/key} of a cluster; never values",
)


def secret_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with the names of secrets, and apart from them the places of those that have one."""
    written: dict[str, str] = values.get("secrets", {})
    places = {name: place for name, place in written.items() if place}
    return {**values, "secrets": tuple(written), "secret_places": places}


def _name(item: Value, spot: Spot) -> str:
    if not isinstance(item, Text) or not VARIABLE.fullmatch(item.text):
        remedy = "put it into the environment and only its name here"
        raise Fault(item.place, f"{spot} holds a value", remedy, "secret-value")
    check_variable(item, spot)
    return item.text


def _place(entry: Entry, spot: Spot) -> str:
    check_variable(entry.key, spot)
    if not isinstance(entry.value, Text) or not REFERENCE.fullmatch(entry.value.text):
        what = f'{spot} holds a value for "{entry.key.text}"'
        remedy = "name a Secret of the cluster and its key: secret/key"
        raise Fault(entry.value.place, what, remedy, "secret-value")
    return entry.value.text

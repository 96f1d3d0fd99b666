"""The keys that only nodes of one kind have, in tables like those of `spec/fields.py`, and what holds among them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime.spec.batch_keys import check_batch
from runtime.spec.batching_keys import check_batching
from runtime.spec.drivers import Anything, Values
from runtime.spec.node import DEFAULT_TIMEOUT_S, CallValue, DispatchSpec, Instance, Limits, ModelCall, ModelsSpec
from runtime.spec.record import Field, Record
from runtime.spec.report import Fault, Report
from runtime.spec.tree import Items, Mapping, Text, Value
from runtime.spec.values import (
    Choice,
    Duration,
    JsonSchema,
    Name,
    Spot,
    Switch,
    WholeNumber,
    expect_mapping,
    expect_text,
    wrong_type,
)
from runtime.spec.wiring import NodeDraft
from runtime.spec.workers import check_workers

DOTTED_CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")
FUNCTION = re.compile(r"[^\0:]+\.py:[A-Za-z_][A-Za-z0-9_]*")
PUBLIC_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
KEYWORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PAYLOAD_PATH = re.compile(r"payload(\.[^.\0]+)*")
# Most models that may be asked to succeed.
MAX_REQUIRED = 10_000


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text of one form. expected, example: for the problem of one that has another."""

    form: re.Pattern[str]
    expected: str

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        text = expect_text(value, spot, self.expected)
        if not self.form.fullmatch(text.text):
            raise Fault(value.place, f"{spot} is {text}", f"give {self.expected}", "wrong-value")
        return text.text

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": f"^{self.form.pattern}$"}


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the user's as `file.py:function`, with its place: the loader looks for the file."""

    def read(self, value: Value, spot: Spot, report: Report) -> Text:
        Pattern(FUNCTION, "a function beside the file: prepare.py:arguments").read(value, spot, report)
        assert isinstance(value, Text), "a pattern takes nothing else"
        return value

    def schema(self) -> JsonSchema:
        return {"type": "string", "pattern": r"^[^:]+\.py:[A-Za-z_][A-Za-z0-9_]*$"}


@dataclass(frozen=True, slots=True)
class OnlyOne:
    """The number 1, on a kind where two at once would make each other's models busy."""

    def read(self, value: Value, spot: Spot, report: Report) -> int:
        count = WholeNumber(most=10_000).read(value, spot, report)
        if count != 1:
            what = f"{spot} is {count}, but a model takes one call at a time: two would find each other's models busy"
            raise Fault(value.place, what, "give 1, or remove it", "conflict")
        return count

    def schema(self) -> JsonSchema:
        return {"const": 1}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a call: a path into the payload, or a constant."""

    def read(self, value: Value, spot: Spot, report: Report) -> CallValue:
        if isinstance(value, Mapping) and [entry.key.text for entry in value.entries] == ["value"]:
            return CallValue(value=Anything().read(value.entries[0].value, spot, report))
        if isinstance(value, Text) and PAYLOAD_PATH.fullmatch(value.text):
            return CallValue(path=value.text)
        raise Fault(value.place, f"{spot} holds {value}", "write payload, payload.<key> or {value: …}", "wrong-value")

    def schema(self) -> JsonSchema:
        path = {"type": "string", "pattern": f"^{PAYLOAD_PATH.pattern}$".replace(r"\0", "")}
        constant = {
            "type": "object",
            "properties": {"value": {"description": "A constant"}},
            "required": ["value"],
            "additionalProperties": False,
        }
        return {"anyOf": [path, constant]}


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a call in their order."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[CallValue, ...]:
        if not isinstance(value, Items):
            raise wrong_type(value, spot, "a list: [payload]")
        found: list[CallValue] = []
        for item in value.items:
            with report.collecting():
                found.append(Argument().read(item, spot, report))
        return tuple(found)

    def schema(self) -> JsonSchema:
        return {"type": "array", "items": Argument().schema()}


@dataclass(frozen=True, slots=True)
class Keywords:
    """The arguments of a call by their names."""

    def read(self, value: Value, spot: Spot, report: Report) -> dict[str, CallValue]:
        found: dict[str, CallValue] = {}
        for entry in expect_mapping(value, spot).entries:
            with report.collecting():
                keyword = Pattern(KEYWORD, "the name of an argument").read(entry.key, spot, report)
                found[keyword] = Argument().read(entry.value, spot, report)
        return found

    def schema(self) -> JsonSchema:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^{KEYWORD.pattern}$"},
            "additionalProperties": Argument().schema(),
        }


@dataclass(frozen=True, slots=True)
class Constants:
    """Plain values in their order."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[Any, ...]:
        if not isinstance(value, Items):
            raise wrong_type(value, spot, "a list")
        return tuple(Anything().read(item, spot, report) for item in value.items)

    def schema(self) -> JsonSchema:
        return {"type": "array"}


CALL = Record(
    {
        "method": Field(
            type=Pattern(PUBLIC_METHOD, "the name of a public method"),
            required=True,
            description="Method of the models' class",
        ),
        "args": Field(type=Arguments(), description="Its arguments: payload, payload.<key> or {value: …}"),
        "kwargs": Field(
            type=Keywords(), description="Its arguments by name; one that a model does not take is left out"
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Calls:
    """The methods that all models are called with, one after the other."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[ModelCall, ...]:
        if not isinstance(value, Items):
            raise wrong_type(value, spot, "a list of calls: [{method: predict}]")
        if not value.items:
            raise Fault(value.place, f"{spot} is an empty list", "name a method: [{method: predict}]", "missing-key")
        found: list[ModelCall] = []
        for item in value.items:
            with report.collecting():
                read = CALL.read(item, Spot("", f"a call of {spot.owner}"), report)
                if "method" in read:
                    found.append(ModelCall(**read))
        return tuple(found)

    def schema(self) -> JsonSchema:
        return {"type": "array", "items": CALL.schema(), "minItems": 1}


INSTANCE = Record(
    {
        "args": Field(type=Constants(), description="Plain values, in order"),
        "kwargs": Field(type=Values(), description="Plain values, by name"),
    }
)

_LIMIT = WholeNumber(least=0, most=1_000_000)
LIMITS = Record(
    {
        "failures": Field(type=_LIMIT, default=3, description="Failures in a row; a model that has more is stopped"),
        "timeouts": Field(type=_LIMIT, default=3, description="The same for answers that did not come in time"),
    }
)

MODELS = {
    "cluster": Field(type=Name(), required=True, description="The models to call: those present under this name"),
    "base_class": Field(
        type=Pattern(DOTTED_CLASS, "the models' base class as module.Class"),
        required=True,
        description="Base of the models' classes, as module.Class",
    ),
    "instance": Field(type=INSTANCE, description="What the models' classes are constructed with"),
    "calls": Field(type=Calls(), required=True, description="The methods to call, one after the other"),
    "arguments": Field(
        type=Function(),
        description="file.py:function(model, data) -> (args, kwargs), for calls that have neither of them",
    ),
    "aggregate": Field(
        type=Function(), description="file.py:function(results, data) -> output; the results themselves by default"
    ),
    "call_timeout": Field(
        type=Duration(positive=True),
        default="10s",
        attribute="call_timeout_s",
        description="How long one call of all models may take",
    ),
    "limits": Field(type=LIMITS, description="When a model is reported and stopped; 0 for never"),
    "require": Field(
        type=WholeNumber(least=0, most=MAX_REQUIRED),
        default=0,
        description="Successes that the last call needs; with fewer the message is tried again",
    ),
    "emit": Field(
        type=Choice(("last", "all")),
        default="last",
        description="Whose results to send: those of the last call, or of all by their methods",
    ),
    "predictions": Field(type=Switch(), default=False, description="Save every answer of a model as a prediction"),
    "replicas": Field(type=OnlyOne(), default=1, description="Only 1"),
    "concurrency": Field(type=OnlyOne(), description="Only 1"),
}

DISPATCH = {
    "wait_for_runner": Field(
        type=Duration(positive=True),
        default="30s",
        attribute="wait_for_runner_s",
        description="How long a message waits for an algorithm that nobody serves",
    ),
}


def models_spec(values: dict[str, Any]) -> ModelsSpec:
    """Take what belongs to the kind out of the values of a node, and return it."""
    given = {name: values.pop(name) for name in ModelsSpec.model_fields if name in values}
    given |= {name: given[name].text for name in ("arguments", "aggregate") if name in given}
    given["instance"] = Instance(**given.get("instance", {}))
    given["limits"] = Limits(**given.get("limits", {}))
    return ModelsSpec(**given)


def dispatch_spec(values: dict[str, Any]) -> DispatchSpec:
    """Take what belongs to the kind out of the values of a node, and return it."""
    return DispatchSpec(**{name: values.pop(name) for name in DispatchSpec.model_fields if name in values})


def check_kinds(drafts: Sequence[NodeDraft], report: Report) -> None:
    """Report what does not go together among the keys that only nodes of one kind have."""
    for draft in drafts:
        check_batching(draft, report)
        check_workers(draft, report)
        if draft.values.get("kind") == "models":
            _check_models(draft, report)
        if draft.values.get("kind") == "batch":
            check_batch(draft, report)


def _check_models(draft: NodeDraft, report: Report) -> None:
    calls: Sequence[ModelCall] = draft.values.get("calls", ())
    methods = [call.method for call in calls]
    twice = next((method for method in methods if methods.count(method) > 1), "")
    if draft.values.get("emit") == "all" and twice:
        what = f'{draft.title} sends the results by their methods, and calls "{twice}" twice'
        report.add(Fault(draft.place, what, "remove emit: all, or one of the calls", "conflict"))
    if "arguments" in draft.values and all(call.args is not None or call.kwargs is not None for call in calls):
        what = f'{draft.title} has "arguments" for calls without args and kwargs, but every call has some'
        report.add(Fault(draft.values["arguments"].place, what, "remove one of them", "conflict"))
    timeout_s = draft.values.get("timeout_s", DEFAULT_TIMEOUT_S)
    longest_s = len(calls) * draft.values.get("call_timeout_s", 0.0)
    if timeout_s is not None and longest_s > timeout_s:
        what = f"the calls of {draft.title} may take {longest_s:g} s, and the node {timeout_s:g} s"
        report.add(Fault(draft.place, what, 'lower "call_timeout", or raise "timeout"', "conflict"))

"""Kind `models`: a coordinator that calls every model of a cluster for each message, and sends what they answered.

    message ─▶ call 1 ─▶ … ─▶ call n ─▶ enough successes? ─▶ predictions ─▶ aggregate ─▶ output

A call has an id that is the same for every delivery of its message, so that hosts repeat their answers to a message
that comes again, and tick no model twice.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from runtime.bus.base import Bus
from runtime.clock import Clock
from runtime.errors import DecodeError, EncodeError, Retry
from runtime.models import DynamicSubclassModelConcurrentRunner, ModelPredictResult
from runtime.node.builtin.loaded import loaded
from runtime.node.context import Context
from runtime.node.handler import LoadedHandler, load_function
from runtime.payload import encode_json
from runtime.spec.node import AGGREGATE, ARGUMENTS, CallValue, ModelCall, ModelsSpec
from runtime.stores.prediction import ERR_MISSING_VALUES

# Seconds in which the models that are there may be set up before the node takes its first message.
READY_TIMEOUT_S = 10.0
# Models that a failed delivery names, with what they have answered.
MAX_NAMED = 5

SUCCESS, FAILED = ModelPredictResult.Status.SUCCESS.value, ModelPredictResult.Status.FAILED.value

# What one model has answered: status, result, exec_time_us, detail.
Entry = dict[str, Any]
Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Functions:
    """The user's own: of the arguments of a model, and of the output; None where the node has none."""

    arguments: Function | None = None
    aggregate: Function | None = None


def prepare(spec: ModelsSpec, base: Path) -> Callable[[Bus, Clock], LoadedHandler]:
    """Load the user's functions, and return what makes the node's handler. Raises HandlerLoadError."""
    return partial(_handler, spec, load_functions(spec, base))


def load_functions(spec: ModelsSpec, base: Path) -> Functions:
    """Import the user's functions. Raises HandlerLoadError."""

    def load(written: str, arguments: str) -> Function | None:
        file, _, name = written.rpartition(":")
        return load_function(base, file, f"{name}{arguments}") if written else None

    return Functions(load(spec.arguments, ARGUMENTS), load(spec.aggregate, AGGREGATE))


def _handler(spec: ModelsSpec, functions: Functions, bus: Bus, clock: Clock) -> LoadedHandler:
    node = ModelsNode(spec, functions, bus, clock)
    return loaded(node.handle, init=node.init, beside=node.follow, teardown=node.teardown)


class ModelsNode:
    """The coordinator of one node."""

    def __init__(self, spec: ModelsSpec, functions: Functions, bus: Bus, clock: Clock) -> None:
        self._spec = spec
        self._functions = functions
        self._runner = DynamicSubclassModelConcurrentRunner(
            timeout=spec.call_timeout_s,
            crunch_id=spec.cluster,
            base_classname=spec.base_class,
            instance_args=list(spec.instance.args),
            instance_kwargs=spec.instance.kwargs,
            max_consecutive_failures=spec.limits.failures,
            max_consecutive_timeouts=spec.limits.timeouts,
            connection=bus,
            clock=clock,
        )

    async def init(self, ctx: Context) -> None:
        """Find the models that are there; others join while the node works. Raises AccessError."""
        await self._runner.init(ready_timeout=READY_TIMEOUT_S)

    async def follow(self, ctx: Context) -> None:
        """Follow joins and leaves until cancelled. Raises what makes it useless to go on."""
        await self._runner.sync()

    async def teardown(self, ctx: Context) -> None:
        await self._runner.close()

    async def handle(self, ctx: Context, data: Any) -> Any:
        answers = [await self._call(ctx, number, call, data) for number, call in enumerate(self._spec.calls)]
        last = answers[-1]
        self._check_required(last)
        methods = [call.method for call in self._spec.calls]
        is_all = self._spec.emit == "all"
        told = dict(zip(methods, answers, strict=True)) if is_all else {methods[-1]: last}
        if self._spec.predictions:
            for method, entries in told.items():
                await self._save(ctx, method, entries)
        return await self._output(told if is_all else last, data)

    async def _call(self, ctx: Context, number: int, call: ModelCall, data: Any) -> dict[str, Entry]:
        results = await self._runner.call(
            call.method, **self._arguments(call, data), call_id=ctx.derive_id(f"call {number}")
        )
        plain = self._functions.aggregate is None
        return {runner.model_id: _entry(result, plain=plain) for runner, result in results.items()}

    def _arguments(self, call: ModelCall, data: Any) -> dict[str, Any]:
        """Return the arguments of a call as its runner takes them. Raises DecodeError for a path that leads nowhere."""
        if call.args is None and call.kwargs is None and (function := self._functions.arguments) is not None:
            return {"arguments": lambda model: function(model, data)}
        kwargs = call.kwargs or {}
        return {
            "args": [value_of(value, data) for value in call.args or ()],
            "kwargs": {name: value_of(value, data) for name, value in kwargs.items()},
        }

    def _check_required(self, entries: Mapping[str, Entry]) -> None:
        succeeded = sum(entry["status"] == SUCCESS for entry in entries.values())
        if succeeded >= self._spec.require:
            return
        failed = [f"{model}: {entry['detail']}" for model, entry in entries.items() if entry["status"] != SUCCESS]
        named = "; ".join(failed[:MAX_NAMED]) or "no model is there"
        raise Retry(reason=f"{succeeded} of {len(entries)} models succeeded, {self._spec.require} have to ({named})")

    async def _save(self, ctx: Context, method: str, entries: Mapping[str, Entry]) -> None:
        """Save what each model has answered as a prediction whose true value is not known."""
        for model_id, entry in entries.items():
            told = {key: value for key, value in entry.items() if key != "result"}
            extra = {"cluster": self._spec.cluster, "model": model_id, "method": method, **told}
            text = _text(entry["result"]) if entry["status"] == SUCCESS else ""
            await ctx.prediction.save(text, error=ERR_MISSING_VALUES, extra=extra, key=f"{method}/{model_id}")

    async def _output(self, results: Any, data: Any) -> Any:
        aggregate = self._functions.aggregate
        if aggregate is None:
            return results
        if inspect.iscoroutinefunction(aggregate):
            return await aggregate(results, data)
        return await asyncio.to_thread(aggregate, results, data)


def value_of(written: CallValue, data: Any) -> Any:
    """Return an argument's value. Raises DecodeError where the payload has nothing at its path."""
    if not written.path:
        return written.value
    value = data
    for step in written.path.split(".")[1:]:
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise DecodeError(f"the payload has nothing at '{written.path}'", reason="payload") from error
    return value


def _entry(result: ModelPredictResult, *, plain: bool) -> Entry:
    """Return what the node tells of a model's answer.

    plain: what has no form in JSON is a failure of its model alone; the user's aggregation gets it as it is.
    """
    entry = {
        "status": result.status.value,
        "result": result.result,
        "exec_time_us": result.exec_time_us,
        "detail": result.detail,
    }
    fault = _json_fault(result.result) if plain else ""
    return {**entry, "status": FAILED, "result": None, "detail": f"DECODE: {fault}"} if fault else entry


def _json_fault(value: Any) -> str:
    try:
        encode_json(value)
    except EncodeError as error:
        return str(error)
    return ""


def _text(result: Any) -> str:
    """Return an answer as a prediction has it; a table has no text."""
    if isinstance(result, str):
        return result
    return "" if _json_fault(result) else encode_json(result).decode()

"""`ctx.configuration`: text values in three scopes, each a bucket that the plan names."""

from collections.abc import Mapping
from enum import StrEnum

from runtime.bus.base import Bus, KeyValue
from runtime.errors import NotFoundError


class Scope(StrEnum):
    """Where a value is kept; `get` without a scope looks in the node, then the workflow, then the project."""

    PROJECT = "project"
    WORKFLOW = "workflow"
    NODE = "node"
    UNDEFINED = "undefined"


_LOOK_UP = (Scope.NODE, Scope.WORKFLOW, Scope.PROJECT)


class Configuration:
    """Opened before `init`: a bucket that is named must exist."""

    def __init__(self, buckets: Mapping[Scope, KeyValue]) -> None:
        self._buckets = buckets

    @classmethod
    async def open(cls, bus: Bus, names: Mapping[str, str]) -> "Configuration":
        """Open the named buckets, `{scope: bucket}`; an empty name is no bucket. Raises NotFoundError with the name."""
        return cls({Scope(scope): await bus.key_value(name) for scope, name in names.items() if name})

    async def get(self, key: str, scope: str = Scope.UNDEFINED) -> str:
        """Return a value. Raises NotFoundError "No value found"; an outage is raised as itself."""
        _require_text("key", key)
        chosen = _scope(scope)
        for bucket in self._candidates(chosen):
            try:
                return (await bucket.get(key)).value.decode()
            except NotFoundError:
                continue
        raise NotFoundError("No value found")

    async def set(self, key: str, value: str, scope: str = Scope.NODE) -> None:
        """Write a value; other processes see it at their next `get`."""
        _require_text("key", key)
        _require_text("value", value)
        await self._bucket(_scope(scope)).put(key, value.encode())

    async def delete(self, key: str, scope: str = Scope.NODE) -> None:
        """Remove a value; a missing one is no error."""
        _require_text("key", key)
        await self._bucket(_scope(scope)).delete(key)

    def _candidates(self, scope: Scope) -> list[KeyValue]:
        if scope is Scope.UNDEFINED:
            return [self._buckets[known] for known in _LOOK_UP if known in self._buckets]
        return [self._bucket(scope)]

    def _bucket(self, scope: Scope) -> KeyValue:
        if scope is Scope.UNDEFINED:
            raise KeyError("'undefined' is no scope to write to; use project, workflow or node")
        if scope not in self._buckets:
            raise NotFoundError(f"no bucket for scope '{scope}': set KRT_NATS_KEY_VALUE_STORE_{scope.upper()}")
        return self._buckets[scope]


def _scope(scope: str) -> Scope:
    try:
        return Scope(getattr(scope, "value", scope))
    except ValueError:
        raise KeyError(f"'{scope}' is no scope; use project, workflow or node") from None


def _require_text(argument: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"[ctx.configuration] '{argument}' must be a string, it is {type(value).__name__}")

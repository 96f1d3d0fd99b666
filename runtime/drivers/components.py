"""Sources and sinks by the word of the workflow file, made from their mappings with every problem told at once."""

import importlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pydantic
from pydantic.fields import FieldInfo

from runtime.drivers.flow import Parameters, Sink, SinkParameters, Source, SourceParameters
from runtime.errors import ConfigError, DriverStartError
from runtime.spec import names

C = TypeVar("C", Source, Sink)

# Built in, by the word that names them. Each file imports what it needs when it is named.
SOURCES: Mapping[str, str] = {
    "cron": "runtime.drivers.sources.timer:CronSource",
    "dummy": "runtime.drivers.sources.dummy:DummySource",
    "file": "runtime.drivers.sources.file:FileSource",
    "folder": "runtime.drivers.sources.folder:FolderSource",
    "http-poll": "runtime.drivers.sources.http_poll:HttpPollSource",
    "mqtt": "runtime.drivers.sources.mqtt:MqttSource",
    "nats": "runtime.drivers.sources.nats_subject:NatsSource",
    "timer": "runtime.drivers.sources.timer:TimerSource",
    "webhook": "runtime.drivers.sources.webhook:WebhookSource",
}
SINKS: Mapping[str, str] = {
    "collect": "runtime.drivers.sinks.collect:CollectSink",
    "dummy": "runtime.drivers.sinks.dummy:DummySink",
    "file": "runtime.drivers.sinks.file:FileSink",
    "http": "runtime.drivers.sinks.http:HttpSink",
    "influx": "runtime.drivers.sinks.influx:InfluxSink",
    "log": "runtime.drivers.sinks.dummy:DummySink",
    "mongo": "runtime.drivers.sinks.mongo:MongoSink",
    "nats": "runtime.drivers.sinks.nats_subject:NatsSink",
    "parquet": "runtime.drivers.sinks.parquet:ParquetSink",
}

# The contracts as classes; mypy would have concrete ones, which nobody here makes.
SOURCE: type[Source] = Source  # type: ignore[type-abstract]
SINK: type[Sink] = Sink  # type: ignore[type-abstract]

# `from` of a sink that reads every output of the workflow, whoever asked for it.
WORKFLOW = "workflow"
# Ending of a key that names a variable of the environment in place of a value: `token_env: WEBHOOK_TOKEN`.
FROM_VARIABLE = "_env"


@dataclass(frozen=True, slots=True)
class ComponentProblem:
    """One fault of the `sources` and `sinks` of a driver. path: the keys that lead to it."""

    path: tuple[str, ...]
    what: str

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.what}"


@dataclass(frozen=True, slots=True)
class SinkEntry:
    """A sink and what feeds it: refs of sources, () for all of them, or `WORKFLOW`."""

    sink: Sink
    feeds: tuple[str, ...] | str = ()


class Ends:
    """The sources and sinks of one driver, as `read` finds them; `problems` says what is wrong with the others."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.sources: dict[str, Source] = {}
        self.sinks: dict[str, SinkEntry] = {}
        self.problems: list[ComponentProblem] = []
        self._environment = environment

    def read(self, sources: Mapping[str, Any], sinks: Mapping[str, Any]) -> None:
        """Make every component of the two mappings, by ref."""
        for ref, written in sources.items():
            if (source := self._component(("sources", ref), written, SOURCE, SOURCES)) is not None:
                self.sources[ref] = source
        for ref, written in sinks.items():
            feeds = self._feeds(("sinks", ref), written, sources)
            if (sink := self._component(("sinks", ref), written, SINK, SINKS)) is not None:
                self.sinks[ref] = SinkEntry(sink, feeds)

    def _component(self, path: tuple[str, ...], written: Any, base: type[C], built_in: Mapping[str, str]) -> C | None:
        if isinstance(written, base):
            return written
        if not names.is_name(path[-1]):
            self._tell(path, f"is no name; use a-z, 0-9 and -: {names.suggest_name(path[-1]) or 'in'}")
        if not isinstance(written, Mapping) or not isinstance(written.get("class"), str):
            self._tell(path, "needs a class: " + ", ".join(built_in))
            return None
        try:
            kind = find_class(written["class"], base, built_in)
        except ConfigError as error:
            self._tell((*path, "class"), str(error))
            return None
        return self._made(path, kind, {key: value for key, value in written.items() if key not in ("class", "from")})

    def _made(self, path: tuple[str, ...], kind: type[C], values: Mapping[str, Any]) -> C | None:
        values = self._resolved(path, values)
        try:
            return kind(kind.parameters(**values))
        except pydantic.ValidationError as error:
            self._tell_faults(path, error, kind.parameters)
        except Exception as error:  # its own code says that the parameters do not fit together
            self._tell(path, str(error) or repr(error))
        return None

    def _tell_faults(
        self, path: tuple[str, ...], error: pydantic.ValidationError, parameters: type[Parameters]
    ) -> None:
        for fault in error.errors(include_url=False, include_input=False):
            self._tell((*path, *map(str, fault["loc"])), _told(fault["msg"], fault["type"], parameters))

    def _resolved(self, path: tuple[str, ...], values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values with those of the environment in the place of their variables."""
        resolved = {}
        for key, value in values.items():
            if not key.endswith(FROM_VARIABLE):
                resolved[key] = value
            elif value in self._environment:
                resolved[key.removesuffix(FROM_VARIABLE)] = self._environment[value]
            else:
                self._tell((*path, key), f"the variable {value} is not set; name it among the driver's secrets")
        return resolved

    def _feeds(self, path: tuple[str, ...], written: Any, sources: Mapping[str, Any]) -> tuple[str, ...] | str:
        named = written.get("from", ()) if isinstance(written, Mapping) else ()
        if named == WORKFLOW:
            return WORKFLOW
        refs = (named,) if isinstance(named, str) else tuple(named)
        for unknown in (ref for ref in refs if ref not in sources):
            known = ", ".join(sources) or "none"
            self._tell((*path, "from"), f'there is no source "{unknown}"; there are {known}, or write {WORKFLOW}')
        return refs

    def _tell(self, path: tuple[str, ...], what: str) -> None:
        self.problems.append(ComponentProblem(path, what))


def read_ends(
    sources: Mapping[str, Any], sinks: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> Ends:
    """Return what two mappings of a workflow file describe; parameters and references are checked, nothing is opened.

    environment: where keys that end in `_env` look.
    """
    ends = Ends(environment)
    ends.read(sources, sinks)
    return ends


def check(ends: Ends) -> Ends:
    """Return them, or raise DriverStartError with every problem."""
    if ends.problems:
        raise DriverStartError("\n".join(map(str, ends.problems)))
    return ends


def find_class(word: str, base: type[C], built_in: Mapping[str, str]) -> type[C]:
    """Return a component's class: a built-in one, or `module:Class` beside the workflow. Raises ConfigError."""
    module_name, colon, name = built_in.get(word, word).partition(":")
    if not colon:
        raise ConfigError(f'"{word}" is not known; use one of {", ".join(built_in)}, or "module:Class"')
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ConfigError:  # an extra is not installed
        raise
    except Exception as error:  # importing runs the user's code
        raise ConfigError(f'"{word}" cannot be imported: {error!r}') from error
    if not isinstance(found, type) or not issubclass(found, base):
        raise ConfigError(f'"{word}" is no subclass of {base.__name__}')
    return found


def describe(word: str, kind: type[Source] | type[Sink], *, only_own: bool = False) -> str:
    """Return the documentation of a component, made of its class and parameters, as Markdown.

    kind: as `find_class` gives it for `word`. only_own: leave out the parameters that every source, or sink, has.
    """
    shared = (SourceParameters if issubclass(kind, Source) else SinkParameters).model_fields if only_own else {}
    fields = kind.parameters.model_fields
    own = {name: each for name, each in fields.items() if name not in shared or each.default != shared[name].default}
    lines = [f"### {word}", "", inspect.getdoc(kind) or ""]
    return "\n".join([*lines, "", *describe_parameters(own)] if own else lines)


def describe_parameters(fields: Mapping[str, FieldInfo]) -> list[str]:
    """Return the lines of a table of parameters."""
    rows = [
        f"| {name} | {'required' if each.is_required() else _shown(each)} | {each.description or ''} |"
        for name, each in fields.items()
    ]
    return ["| parameter | default | |", "|---|---|---|", *rows]


def missing_extra(extra: str, package: str) -> ConfigError:
    """Return the error of a component whose package is not installed."""
    return ConfigError(f"the package {package} is missing; install krt-runtime[{extra}]")


def _shown(field: FieldInfo) -> str:
    """Return a default as a workflow file would have it, "" for nothing."""
    default = field.get_default(call_default_factory=True)
    value = default.get_secret_value() if isinstance(default, pydantic.SecretStr) else default
    if isinstance(value, bool):
        return f"`{value}`".lower()
    return f"`{value}`" if value or value == 0 else ""


def _told(message: str, kind: str, parameters: type[Parameters]) -> str:
    if kind == "extra_forbidden":
        return f"there is no such parameter; there are {', '.join(parameters.model_fields)}"
    return message.removeprefix("Value error, ")

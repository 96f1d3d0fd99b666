"""`models.yml`: the models of one cluster that shall be here. A file -> `ModelsFile`, or every problem of it at once.

    cluster: bird-game
    models:
      - {id: m1, name: alpha, code: models/alpha, resources: data/alpha, infos: {owner: ann}}
      - {id: m2, code: models/beta, class: "tracker:Beta", memory: 2Gi, restarts: {max: 4, within: 24h}}
      - {id: m3, code: models/gamma, desired: stopped}

Folders are relative to the file's own. Nothing is imported here.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pydantic

from runtime.spec import names
from runtime.spec.drivers import Values
from runtime.spec.node import Frozen
from runtime.spec.record import Field, Record
from runtime.spec.report import START, Fault, Report, listed
from runtime.spec.tree import MAX_SIZE, Items, Text, Value, parse
from runtime.spec.tree import Mapping as Written
from runtime.spec.values import (
    AnyText,
    Choice,
    ClassName,
    Duration,
    JsonSchema,
    Name,
    Size,
    Spot,
    WholeNumber,
    expect_text,
    wrong_type,
)
from runtime.spec.values import Path as WrittenPath

# Name of the file in a folder of models.
FILE_NAME = "models.yml"
RUNNING: Final = "running"
STOPPED: Final = "stopped"
# What a file has at least, as problems say it.
_LEAST = 'write at least "cluster" and "models"'


class Restarts(Frozen):
    """How often a host that ended by itself is started again: `max` times within `within_s` seconds."""

    max: Annotated[int, pydantic.Field(ge=0)] = 4
    within_s: Annotated[float, pydantic.Field(gt=0)] = 86_400.0


class DesiredModel(Frozen):
    """One model of the file.

    name: for people. code, resources: absolute folders. class_name: `module:Name`, "" to search for it. infos: of the
    model's owner, as coordinators see them. memory_bytes: limit of the model's process, None for none.
    """

    id: str
    name: str
    code: Path
    resources: Path | None = None
    class_name: str = ""
    infos: Mapping[str, Any] = pydantic.Field(default_factory=dict)
    desired: Literal["running", "stopped"] = RUNNING
    memory_bytes: int | None = None
    restarts: Restarts = Restarts()


class ModelsFile(Frozen):
    """What a models file says."""

    cluster: str
    models: tuple[DesiredModel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModels:
    """What was read of a file; `models_file` is None where it has problems."""

    path: Path
    report: Report
    models_file: ModelsFile | None = None


@dataclass(frozen=True, slots=True)
class ModelId:
    """The id of a model, as its owner was given it."""

    def read(self, value: Value, spot: Spot, report: Report) -> str:
        text = expect_text(value, spot, "the id of a model")
        if not names.is_model_id(text.text):
            remedy = 'use letters, digits, "-" and "_", 64 characters at most'
            raise Fault(value.place, f"{spot} is {text}", remedy, "bad-name")
        return text.text

    def schema(self) -> JsonSchema:
        return {"type": ["string", "integer"], "pattern": f"^{names.MODEL_ID_PATTERN.pattern}$"}


RESTARTS = Record(
    {
        "max": Field(
            type=WholeNumber(least=0, most=1000), default=4, description="How often a host is started again by itself"
        ),
        "within": Field(
            type=Duration(positive=True),
            default="24h",
            attribute="within_s",
            description="The time that the restarts are counted in",
        ),
    }
)

MODEL = Record(
    {
        "id": Field(type=ModelId(), required=True, description="Id of the model in its cluster"),
        "name": Field(type=AnyText(), description="Name for people; the id by default"),
        "code": Field(type=WrittenPath(), required=True, description="Folder of the model's Python files"),
        "resources": Field(type=WrittenPath(), description="Folder of its other files, such as weights"),
        "class": Field(
            type=ClassName(),
            attribute="class_name",
            description="module:Name of the model's class; searched for by its base class by default",
        ),
        "infos": Field(type=Values(), description="What coordinators are told of the model, by name"),
        "desired": Field(type=Choice((RUNNING, STOPPED)), default=RUNNING, description="Whether it shall run"),
        "memory": Field(type=Size(), attribute="memory_bytes", description="Limit of the model's process"),
        "restarts": Field(type=RESTARTS, description="How often it is started again when it ends by itself"),
    }
)


@dataclass(frozen=True, slots=True)
class Models:
    """A list of mappings, which the loader reads one by one."""

    def read(self, value: Value, spot: Spot, report: Report) -> Items:
        if not isinstance(value, Items):
            raise wrong_type(value, spot, "a list of models: [{id: m1, code: models/alpha}]")
        return value

    def schema(self) -> JsonSchema:
        return {"type": "array", "items": MODEL.schema()}


MODELS_FILE = Record(
    {
        "cluster": Field(type=Name(), required=True, description="Name of the cluster, which coordinators ask for"),
        "models": Field(type=Models(), required=True, description="The models of the cluster that shall be here"),
    },
    owner="the file",
)


def load_models(path: Path) -> LoadedModels:
    """Read a models file, or that of a folder; raises nothing for a fault of the file."""
    file = path / FILE_NAME if path.is_dir() else path
    report = Report(str(file))
    with report.collecting():
        root = parse(_read(file), report, least=_LEAST)
        if root is not None:
            return LoadedModels(path=file, report=report, models_file=_models_file(root, file, report))
    return LoadedModels(path=file, report=report)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_SIZE + 1)
    except OSError as err:
        raise Fault(START, f"the file cannot be read: {err.strerror}", f"name a {FILE_NAME}", "unreadable") from err


def _models_file(root: Value, file: Path, report: Report) -> ModelsFile | None:
    if not isinstance(root, Written):
        raise Fault(root.place, f"the file holds {root}", _LEAST, "wrong-type")
    values = MODELS_FILE.read(root, Spot("", ""), report)
    written: Items | None = values.get("models")
    models = tuple(_models(written.items, file.parent.absolute(), report)) if written is not None else ()
    if report.errors:
        return None
    return ModelsFile(cluster=values["cluster"], models=models)


def _models(written: Sequence[Value], folder: Path, report: Report) -> Iterator[DesiredModel]:
    """Yield the models that have no problems."""
    lines: dict[str, int] = {}
    for number, each in enumerate(written, start=1):
        before = len(report.errors)
        with report.collecting():
            values = _values(each, number, folder, lines, report)
        if len(report.errors) == before:
            yield DesiredModel(**values)


def _values(each: Value, number: int, folder: Path, lines: dict[str, int], report: Report) -> dict[str, Any]:
    """Return the values of one model. lines: of the ids before it."""
    title = _title(each, number)
    values = MODEL.read(each, Spot("", title), report)
    for key in ("code", "resources"):
        with report.collecting():
            if key in values:
                values[key] = _folder(values[key], Spot(key, title), folder)
    if (model_id := values.get("id")) is not None:
        _check_single(model_id, each, lines)
        values.setdefault("name", model_id)
    if "restarts" in values:
        values["restarts"] = Restarts(**values["restarts"])
    return values


def _title(each: Value, number: int) -> str:
    written = each.get("id") if isinstance(each, Written) else None
    return f'model "{written.text[:64]}"' if isinstance(written, Text) else f"model {number}"


def _check_single(model_id: str, each: Value, lines: dict[str, int]) -> None:
    if model_id in lines:
        what = f'two models have the id "{model_id}", the first at line {lines[model_id]}'
        raise Fault(each.place, what, "give each its own", "duplicate-name")
    lines[model_id] = each.place.line


def _folder(written: Text, spot: Spot, base: Path) -> Path:
    found = Path(os.path.normpath(base / written.text))
    if found.is_dir():
        return found
    near = sorted(path.name for path in found.parent.iterdir() if path.is_dir()) if found.parent.is_dir() else []
    remedy = f"there are {listed(near)}" if near else "create it"
    raise Fault(written.place, f"{spot} is {written}, which is no folder", remedy, "missing-file")

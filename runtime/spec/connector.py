"""`meta.yml`: what a connector tells those who offer its model. A file -> `ConnectorMeta`, or every problem of it.

    sir:
      name: SIR
      imageURL: registry.example/sir-connector:1.0
      supportedParameters: [r0]
      supportedRegions: {GB: [GB-ENG, GB-SCT], IE: []}

The key is the model's slug, which requests name. The runtime itself needs the image alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from runtime.spec.drivers import Values
from runtime.spec.frozen import Frozen
from runtime.spec.record import Field, Record
from runtime.spec.report import START, Fault, Report
from runtime.spec.tree import MAX_SIZE, Items, Value, parse
from runtime.spec.tree import Mapping as Written
from runtime.spec.values import AnyText, JsonSchema, Name, Spot, Switch, expect_text, wrong_type

FILE_NAME = "meta.yml"
# What a file has at least, as problems say it.
_LEAST = 'write the slug of the model and below it at least "name" and "imageURL"'


class ConnectorMeta(Frozen):
    """What a connector says of itself.

    slug: name of the model in requests. name, origin, description: for people. image: of model and connector together.
    regions: those of each region; none for a region is all of it. Either they or `schemas` say what is supported.
    """

    slug: str
    name: str
    image: str
    origin: str = ""
    enabled: bool = True
    urls: Mapping[str, Any] = pydantic.Field(default_factory=dict)
    description: str = ""
    parameters: tuple[str, ...] = ()
    regions: Mapping[str, Any] = pydantic.Field(default_factory=dict)
    schemas: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedMeta:
    """What was read of a file; `meta` is None where it has problems."""

    report: Report
    meta: ConnectorMeta | None = None


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of texts."""

    def read(self, value: Value, spot: Spot, report: Report) -> tuple[str, ...]:
        if not isinstance(value, Items):
            raise wrong_type(value, spot, "a list of texts")
        return tuple(expect_text(item, spot, "a list of texts").text for item in value.items)

    def schema(self) -> JsonSchema:
        return {"type": "array", "items": {"type": "string"}}


META = Record(
    {
        "name": Field(type=AnyText(), required=True, description="Name of the model for people"),
        "origin": Field(type=AnyText(), description="Who is responsible for the model"),
        "enabled": Field(type=Switch(), default=True, description="Whether it is offered"),
        "imageURL": Field(type=AnyText(), required=True, attribute="image", description="Image with the model"),
        "metaURLs": Field(type=Values(), attribute="urls", description="Where to read on: code, paper, website"),
        "description": Field(type=AnyText(), description="A paragraph for people"),
        "supportedParameters": Field(
            type=Texts(), attribute="parameters", description="Parameters of the input schema that have an effect"
        ),
        "supportedRegions": Field(
            type=Values(), attribute="regions", description="Regions that there are data of, each with its parts"
        ),
        "supportedSchemas": Field(
            type=Texts(), attribute="schemas", description="Input schemas, for a model that has some of its own"
        ),
    }
)


def load_meta(path: Path) -> LoadedMeta:
    """Read the file of a connector, or that of its folder; raises nothing for a fault of the file."""
    file = path / FILE_NAME if path.is_dir() else path
    report = Report(str(file))
    with report.collecting():
        root = parse(_read(file), report, least=_LEAST)
        if root is not None:
            return LoadedMeta(report=report, meta=_meta(root, report))
    return LoadedMeta(report=report)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_SIZE + 1)
    except OSError as error:
        raise Fault(
            START, f"the file cannot be read: {error.strerror}", f"write a {FILE_NAME}", "unreadable"
        ) from error


def _meta(root: Value, report: Report) -> ConnectorMeta | None:
    if not isinstance(root, Written) or len(root.entries) != 1:
        raise Fault(root.place, "the file does not describe one model", _LEAST, "wrong-type")
    (entry,) = root.entries
    slug = Name().read(entry.key, Spot("", "the file"), report)
    values = META.read(entry.value, Spot("", f'model "{slug}"'), report)
    if "regions" in values and "schemas" in values:
        what = f'model "{slug}" has "supportedRegions" as well as "supportedSchemas"'
        report.add(Fault(entry.key.place, what, "remove one of them", "conflict"))
    return None if report.errors else ConnectorMeta(slug=slug, **values)

"""The probe: what the annotations of a handler say about its edges."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest
from google.protobuf import any_pb2, struct_pb2
from google.protobuf.message import Message
from pydantic import BaseModel, Field

from runtime import File, errors
from runtime.cli.probe import Wanted, probe
from runtime.node.handler_types import input_type, output_type
from runtime.spec.edges import EdgeType
from runtime.spec.node import JoinSpec

TEXT = EdgeType(kind="json", json_schema={"type": "string"})
UNKNOWN = EdgeType(kind="unknown")


class Score(BaseModel):
    amount: float = 0
    inner: Annotated[str, Field(exclude=True)] = ""


def taking(annotation: Any) -> Callable[..., Any]:
    def handler(ctx: Any, data: Any) -> None: ...

    handler.__annotations__["data"] = annotation
    return handler


def returning(annotation: Any) -> Callable[..., Any]:
    def handler(ctx: Any, data: Any) -> None: ...

    handler.__annotations__["return"] = annotation
    return handler


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (str, TEXT),
        ("str", TEXT),
        (bytes, EdgeType(kind="bytes")),
        (np.ndarray, EdgeType(kind="array")),
        (npt.NDArray[np.float32], EdgeType(kind="array", dtype="float32")),
        (npt.NDArray[np.floating], EdgeType(kind="array")),
        (npt.NDArray[np.uint8 | np.int8], EdgeType(kind="array")),
        (pa.Table, EdgeType(kind="table")),
        (pa.RecordBatch, EdgeType(kind="table")),
        (pd.DataFrame, EdgeType(kind="table")),
        (File, EdgeType(kind="file")),
        (struct_pb2.Struct, EdgeType(kind="protobuf", message="google.protobuf.Struct")),
        (any_pb2.Any, EdgeType(kind="raw")),
        (Message, EdgeType(kind="raw")),
        (Any, UNKNOWN),
        (object, UNKNOWN),
        (Callable[[], int], UNKNOWN),
    ],
)
def test_input_is_the_annotation_of_the_second_parameter(annotation: Any, expected: EdgeType) -> None:
    assert input_type(taking(annotation)) == expected


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (str, TEXT),
        (str | None, TEXT),
        (str | errors.Reject | errors.Drop | errors.Retry, TEXT),
        (list[str], TEXT),
        (list[npt.NDArray[np.float32]], EdgeType(kind="array", dtype="float32")),
        (File | None, EdgeType(kind="file")),
        (Iterator[str], TEXT),
        (AsyncIterator[str] | None, TEXT),
        (None, None),
        (None | errors.Drop, None),
        (list, UNKNOWN),
        (Any, UNKNOWN),
        ("NotDefined", UNKNOWN),
    ],
)
def test_output_is_the_returned_type_without_outcomes(annotation: Any, expected: EdgeType | None) -> None:
    assert output_type(returning(annotation)) == expected


def test_a_field_with_a_default_is_always_sent_and_never_required() -> None:
    sent, read = output_type(returning(Score)), input_type(taking(Score))

    assert sent is not None
    assert (sent.json_schema.get("required"), read.json_schema.get("required")) == (["amount"], None)


def test_a_callable_object_is_read_by_its_call() -> None:
    class Handler:
        def __call__(self, ctx: object, data: str) -> str:
            return data

    assert (input_type(Handler()), output_type(Handler())) == (TEXT, TEXT)


def test_a_handler_without_annotations_is_unknown() -> None:
    def handler(ctx, data):  # type: ignore[no-untyped-def]  # what users write
        return data

    assert (input_type(handler), output_type(handler)) == (UNKNOWN, UNKNOWN)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a handler `probed.py`; what importing it leaves in this process is taken back."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("probed", None)


def test_from_node_style_has_an_input_per_node_and_no_output(folder: Path) -> None:
    (folder / "probed.py").write_text(
        "def of_camera(ctx, data: bytes) -> str: ...\n"
        "def default_handler(ctx, data: str) -> str: ...\n"
        "custom_handlers = {'camera': of_camera}\n"
        "channels = ['sure']\n"
    )

    types = probe(folder, "probed.py").types

    assert types is not None
    assert types.inputs == {"camera": EdgeType(kind="bytes"), "": TEXT}
    assert (types.output, types.channels) == (None, {"sure": UNKNOWN})


def test_declared_channels_have_types_and_the_handler_its_line(folder: Path) -> None:
    (folder / "probed.py").write_text("channels = {'sure': str}\n\ndef handler(ctx, data): ...\n")

    types = probe(folder, "probed.py").types

    assert types is not None
    assert (types.channels, types.line) == ({"sure": TEXT}, 3)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("import a_package_that_nobody_has\n", "handler-import"),
        ("def handler(ctx, data:\n", "handler-import"),
        ("raise SystemExit(1)\n", "handler-import"),
        ("def handle(ctx, data): ...\n", "handler-signature"),
        ("def handler(data): ...\n", "handler-signature"),
        ("def handler(ctx, data): ...\ndef init(): ...\n", "handler-signature"),
        ("def handler(ctx, data: 'NotDefined'): ...\n", "handler-signature"),
    ],
)
def test_a_fault_says_whether_the_module_ran(source: str, code: str, folder: Path) -> None:
    (folder / "probed.py").write_text(source)

    finding = probe(folder, "probed.py")

    assert (finding.types, finding.code) == (None, code)
    assert "probed.py" in finding.fault


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        (Wanted(state="probed:Seen"), "probed:Seen cannot be the class of a state"),
        (Wanted(state="probed:Kept"), ""),
        (Wanted(join=JoinSpec(bucket="", parts={"a": "x"}, key="", timeout_s=1, partial=False)), "no field 'x'"),
        (Wanted(join=JoinSpec(bucket="", parts={"a": "n"}, key="", timeout_s=1, partial=False)), ""),
    ],
)
def test_what_a_state_or_a_join_asks_of_the_handler_is_checked(tmp_path: Path, wanted: Wanted, fault: str) -> None:
    (tmp_path / "probed.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Seen:\n    n: int\n"
        "@dataclass\nclass Kept:\n    n: int = 0\n"
        "def handler(ctx, data: Seen): ...\n"
    )

    finding = probe(tmp_path, "probed.py", wanted)

    assert (finding.code if finding.fault else "", fault in finding.fault) == (
        "handler-signature" if fault else "",
        True,
    )

"""Answers as JSON."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pytest
from google.protobuf import any_pb2, source_context_pb2

from runtime import File
from runtime.cli.outputs import json_line


def packed(type_name: str, content: bytes) -> any_pb2.Any:
    return any_pb2.Any(type_url=f"type.googleapis.com/{type_name}", value=content)


def test_json_stays_json_in_one_line() -> None:
    assert json_line({"name": "Ada", "n": [1, None]}) == '{"name":"Ada","n":[1,null]}'


def test_bytes_are_base64() -> None:
    assert json_line(b"\x00\xff") == '{"base64":"AP8="}'


def test_a_message_of_a_known_type_is_its_json_form() -> None:
    value = any_pb2.Any()
    value.Pack(source_context_pb2.SourceContext(file_name="x"))

    assert json_line({"output": value}) == '{"output":{"file_name":"x"}}'


def test_a_message_of_an_unknown_type_or_with_broken_bytes_is_type_and_base64() -> None:
    assert json_line(packed("greeter.Reply", b"\x01")) == '{"type":"greeter.Reply","base64":"AQ=="}'
    known = "google.protobuf.SourceContext"
    assert json_line(packed(known, b"\x0a\xff")) == f'{{"type":"{known}","base64":"Cv8="}}'


ROW = {"n": 1, "b": b"\x00", "d": date(2026, 1, 2), "m": Decimal("1.50"), "t": timedelta(seconds=1)}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.array([[1.5], [np.nan]]), "[[1.5],[null]]"),
        (np.array(["2026-01-02"], "M8[D]"), '["2026-01-02"]'),
        (np.array([1j]), '"Array complex128 (1,), 16 bytes"'),
        (pa.Table.from_pylist([ROW]), '[{"n":1,"b":{"base64":"AA=="},"d":"2026-01-02","m":"1.50","t":"0:00:01"}]'),
        (File(b"\x00", "image/png"), '{"data":{"base64":"AA=="},"content_type":"image/png","name":""}'),
    ],
)
def test_arrays_tables_and_files_have_a_form(value: Any, text: str) -> None:
    assert json_line(value) == text


def test_what_is_no_answer_is_refused() -> None:
    with pytest.raises(TypeError):
        json_line(object())

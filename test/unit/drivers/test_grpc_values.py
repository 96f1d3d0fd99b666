"""From a call's bytes to a workflow's inputs, and from its answer to the declared type."""

from typing import Any

import pytest
from google.protobuf import any_pb2, timestamp_pb2

from runtime import payload
from runtime.drivers.grpc.call import MAX_DETAIL_BYTES, clip, read_state_id
from runtime.drivers.grpc.routes import Method, served_methods
from runtime.drivers.grpc.schema import read_schema
from runtime.drivers.grpc.values import read_inputs, write_answer
from runtime.errors import PredictionError
from test.support.rpc import write_proto

PROTO = """
syntax = "proto3";
import "google/protobuf/empty.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
message Reading {
  string sensor = 1;
  int64 number = 2;
  google.protobuf.Timestamp at = 3;
  repeated double values = 4;
  optional int32 level = 5;
}
service All {
  rpc Read(Reading) returns (Reading);
  rpc Drop(Reading) returns (google.protobuf.Empty);
  rpc Raw(google.protobuf.BytesValue) returns (google.protobuf.BytesValue);
  rpc Free(google.protobuf.Struct) returns (google.protobuf.Struct);
}
"""


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Method]:
    schema = read_schema(write_proto(tmp_path_factory.mktemp("proto"), PROTO))
    return {method.name: method for method in served_methods(schema.services, {})}


def refusal(error: "pytest.ExceptionInfo[PredictionError]") -> tuple[str, str]:
    return error.value.outcome, error.value.detail


def test_a_message_goes_to_the_workflow_as_it_came(methods: dict[str, Method]) -> None:
    unknown_field = b"\x9a\x06\x03new"
    sent = methods["Read"].takes(sensor="a").SerializeToString() + unknown_field

    inputs = read_inputs(methods["Read"], sent, as_json=False)

    assert isinstance(inputs, any_pb2.Any)
    assert (inputs.type_url, inputs.value) == ("type.googleapis.com/Reading", sent)


def test_json_has_every_field_under_its_name_in_the_file(methods: dict[str, Method]) -> None:
    message = methods["Read"].takes(sensor="a", at=timestamp_pb2.Timestamp(seconds=0).ToDatetime())

    inputs = read_inputs(methods["Read"], message.SerializeToString(), as_json=True)

    assert inputs == {"sensor": "a", "number": "0", "at": "1970-01-01T00:00:00Z", "values": []}


@pytest.mark.parametrize("as_json", [False, True])
def test_bytes_that_are_no_message_are_refused_with_the_type(methods: dict[str, Method], as_json: bool) -> None:
    with pytest.raises(PredictionError) as refused:
        read_inputs(methods["Read"], b"\x0a\xff", as_json=as_json)

    outcome, detail = refusal(refused)
    assert outcome == "invalid"
    assert detail.startswith("All/Read takes Reading, and the request is none: ")


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        ("Read", {"sensor": "a", "number": 7, "at": "1970-01-01T00:00:01Z"}, {"sensor": "a", "number": 7}),
        ("Raw", b"\x00\xff", {"value": b"\x00\xff"}),
        ("Drop", None, {}),
        ("Drop", {}, {}),
    ],
)
def test_an_answer_takes_the_declared_type(
    methods: dict[str, Method], name: str, value: Any, answer: dict[str, Any]
) -> None:
    written = methods[name].returns.FromString(write_answer(methods[name], value))

    assert {key: getattr(written, key) for key in answer} == answer


def test_json_of_any_shape_fits_a_struct(methods: dict[str, Method]) -> None:
    written = methods["Free"].returns.FromString(write_answer(methods["Free"], {"a": [1, None, {"b": "c"}]}))

    assert dict(written)["a"][2]["b"] == "c"  # type: ignore[call-overload]  # a Struct of the file's own pool


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (payload.decode_any(payload.encode_value(timestamp_pb2.Timestamp())), "google.protobuf.Timestamp"),
        (any_pb2.Any(type_url="type.googleapis.com/Reading", value=b"\x0a\xff"), "bytes that are none: "),
        (any_pb2.Any(), "a message without a type"),
        ({"sensor": 5}, "JSON that does not fit: Failed to parse sensor field"),
        ({"sensr": "a"}, 'JSON that does not fit: Message type "Reading" has no field named "sensr"'),
        (5, "JSON that does not fit: "),
        ("text", "JSON that does not fit: "),
        (["sensor"], "JSON that does not fit: "),
        (b"raw", "bytes"),
        (None, "nothing"),
    ],
)
def test_an_answer_of_another_type_is_refused_with_both_types(
    methods: dict[str, Method], value: Any, told: str
) -> None:
    with pytest.raises(PredictionError) as refused:
        write_answer(methods["Read"], value)

    outcome, detail = refusal(refused)
    assert outcome == "failed"
    assert detail.startswith(f"All/Read returns Reading, and the workflow answered {told}")


def test_a_state_id_is_text_or_bytes_of_it() -> None:
    assert read_state_id(()) == ""
    assert read_state_id((("krt-state-id", "cam-1"),)) == "cam-1"
    assert read_state_id((("krt-state-id-bin", "Zoë".encode()),)) == "Zoë"


@pytest.mark.parametrize("given", [("krt-state-id", "x" * 257), ("krt-state-id-bin", b"\xff")])
def test_a_state_id_that_is_too_long_or_no_text_is_refused(given: tuple[str, str | bytes]) -> None:
    with pytest.raises(PredictionError, match="the state id is no text of at most 256 bytes") as refused:
        read_state_id((given,))

    assert refused.value.outcome == "invalid"


def test_a_long_text_is_cut_between_characters() -> None:
    assert clip("short") == "short"
    assert clip("é" * MAX_DETAIL_BYTES) == "é" * (MAX_DETAIL_BYTES // 2) + " …"

"""Answers as JSON."""

from google.protobuf import any_pb2, source_context_pb2

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

"""The bytes between node and writer, and KRE's side of them."""

import json

import pytest

from runtime.errors import DocumentError, DuplicateDocumentError, StoreError, StoreUnavailableError
from runtime.stores.request import SUCCESS, check_answer, decode_request, encode_failure, encode_request


def test_the_body_is_exactly_kres() -> None:
    body = encode_request("c", {"z": 1, "a": 1.0, "text": "é"})

    assert body == '{"coll":"c","doc":{"z":1,"a":1.0,"text":"é"}}'.encode()


def test_a_request_comes_back_with_types_and_key_order() -> None:
    document = {"z": 2**63 - 1, "a": 1.0, "n": None}

    collection, decoded = decode_request(encode_request("c", document))

    assert (collection, repr(decoded)) == ("c", repr(document))


def test_kres_spacing_and_escapes_are_read() -> None:
    body = json.dumps({"coll": "c", "doc": {"a": "é"}}, indent=2).encode()

    assert decode_request(body) == ("c", {"a": "é"})


def test_an_integer_beyond_64_bits_is_not_rounded_on_the_way() -> None:
    _, document = decode_request(b'{"coll": "c", "doc": {"n": 18446744073709551617}}')

    assert document == {"n": 18446744073709551617}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", 'the request is empty, expected {"coll": …, "doc": …}'),
        (b"{", "the request is no JSON: "),
        (b"\xff\xfe", "the request is no JSON: "),
        (b'{"coll": "c", "doc": {"n": NaN}}', "the request is no JSON: "),
        (b'{"coll": "c", "doc": {"n": 123456789012345678901', "the request is no JSON: "),
        (b"[" * 100_000, "the request is no JSON: "),
        (b"[1]", "the request is of type 'list', expected an object with 'coll' and 'doc'"),
        (b"null", "the request is missing, expected an object with 'coll' and 'doc'"),
        (b'{"doc": {}}', "'coll' is missing, expected the name of a collection"),
        (b'{"coll": "", "doc": {}}', "'coll' is empty, expected the name of a collection"),
        (b'{"coll": 5, "doc": {}}', "'coll' is of type 'int', expected the name of a collection"),
        (b'{"coll": "c"}', "'doc' is missing, expected an object"),
        (b'{"coll": "c", "doc": [1]}', "'doc' is of type 'list', expected an object"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else "",
)
def test_a_request_that_cannot_be_read_is_refused_with_the_reason(body: bytes, message: str) -> None:
    with pytest.raises(DocumentError) as refusal:
        decode_request(body)

    assert str(refusal.value).startswith(message)


def test_answers_have_kres_field_and_the_reason() -> None:
    assert json.loads(SUCCESS) == {"success": True}
    assert json.loads(encode_failure(DuplicateDocumentError("taken"))) == {
        "success": False, "error": "taken", "retryable": False,
    }  # fmt: skip
    assert json.loads(encode_failure(StoreUnavailableError("busy")))["retryable"] is True


@pytest.mark.parametrize("answer", [SUCCESS, b'{"success": true, "error": "", "more": 1}'])
def test_success_is_success(answer: bytes) -> None:
    check_answer(answer)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (b'{"success": false, "error": "busy", "retryable": true}', StoreUnavailableError, "busy"),
        (b'{"success": false, "error": "taken", "retryable": false}', StoreError, "taken"),
        (b'{"success": false}', StoreError, "the writer gave no reason"),
        (b'{"success": "yes"}', StoreError, "the writer gave no reason"),
        (b"", StoreError, "the writer's answer is no JSON: "),
        (b"[]", StoreError, "the writer's answer is of type 'list', expected an object"),
    ],
)
def test_everything_else_is_a_failure(answer: bytes, kind: type[StoreError], message: str) -> None:
    with pytest.raises(StoreError) as failure:
        check_answer(answer)

    assert type(failure.value) is kind
    assert str(failure.value).startswith(message)

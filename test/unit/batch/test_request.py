"""What a message may ask for, and what is told of one that asks for nothing that could be made."""

import base64
import gzip
import json
from typing import Any

import pytest

from runtime.batch import request as requests
from runtime.batch.request import InvalidRequestError, Model, Request, image_allowed, read_request, results_hash
from runtime.payload import encode_value


def read(value: Any) -> Request:
    return read_request(encode_value(value), request_id="r1", slug="flood")


def read_text(text: bytes) -> Request:
    return read_request(encode_value(text), request_id="r1", slug="flood")


def compressed(text: bytes) -> str:
    return base64.b64encode(gzip.compress(text, mtime=0)).decode()


def problems_of(value: Any) -> tuple[str, ...]:
    with pytest.raises(InvalidRequestError) as raised:
        read(value)
    assert str(raised.value).startswith("Invalid model runner input JSON. Details: ")
    return raised.value.problems


@pytest.mark.parametrize(
    "configuration", [{}, {"days": 3}, {"id": 5}, {"models": [1]}, {"configuration": {}, "days": 3}]
)
def test_any_other_object_is_the_configuration_itself(configuration: dict[str, Any]) -> None:
    found = read(configuration)

    assert found.configuration == configuration
    assert (found.id, found.models, found.callback_url) == ("r1", (Model("flood"),), "")


def test_the_model_reads_the_text_that_came() -> None:
    text = b'{ "b": 1.10,\n "a": 10000000000000000000000 }'

    found = read_text(text)

    assert found.text == text
    assert found.configuration == {"b": 1.1, "a": 10**22}


def test_of_two_equal_keys_the_last_one_wins() -> None:
    found = read_text(b'{"days": 1, "days": 2}')

    assert found.configuration == {"days": 2}
    assert json.loads(found.text) == {"days": 2}


def test_a_request_names_models_and_whom_to_tell() -> None:
    found = read(
        {
            "id": 17,
            "models": [{"slug": "flood"}, {"slug": "fire", "imageURL": "registry.example/fire:2"}],
            "configuration": {"days": 3},
            "callbackURL": "https://app.example/hook",
        }
    )

    assert found.id == "17"
    assert found.models == (Model("flood"), Model("fire", "registry.example/fire:2"))
    assert found.callback_url == "https://app.example/hook"
    assert (found.configuration, json.loads(found.text)) == ({"days": 3}, {"days": 3})


def test_a_compressed_configuration_is_the_text_that_was_compressed() -> None:
    text = b'{"days":  3}'

    found = read({"configurationCompressed": compressed(text)})

    assert (found.text, found.configuration) == (text, {"days": 3})


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([1], "the payload is list, and has to be an object"),
        ("text", "the payload is str, and has to be an object"),
        ({"configuration": [1]}, '"configuration" is list, and has to be an object'),
        ({"configuration": None}, '"configuration" is null, and has to be an object'),
        ({"configuration": {}, "models": []}, '"models" has to be a list of 1 to 100 models: [{"slug": name}]'),
        ({"configuration": {}, "models": {}}, '"models" has to be a list of 1 to 100 models: [{"slug": name}]'),
        ({"configuration": {}, "models": ["flood"]}, 'models[0] has to be an object with a "slug"'),
        ({"configuration": {}, "models": [{"slug": ""}]}, 'models[0] has to be an object with a "slug"'),
        ({"configuration": {}, "models": [{"slug": "a", "imageURL": 5}]}, '"imageURL" of models[0] is no text'),
        ({"configuration": {}, "models": [{"slug": "a", "image": "x"}]}, "models[0] has no key 'image'"),
        ({"configuration": {}, "models": [{"slug": "a"}], "callback": "x"}, "the request has no key 'callback'"),
        ({"configuration": {}, "id": [1]}, '"id" has to be a text of at most 500 characters'),
        ({"configurationCompressed": 5}, '"configurationCompressed" is int, and has to be base64 of gzip'),
        ({"configurationCompressed": compressed(b"[1]")}, '"configurationCompressed" is list, and has to be an object'),
    ],
)  # fmt: skip
def test_a_fault_is_named(value: Any, problem: str) -> None:
    assert problems_of(value) == (problem,)


def test_every_fault_is_told_at_once_to_whom_can_be_told() -> None:
    with pytest.raises(InvalidRequestError) as raised:
        read({"id": "7", "callbackURL": "https://a.example", "models": [], "configuration": 5, "extra": 1})

    assert len(raised.value.problems) == 3
    assert (raised.value.id, raised.value.callback_url) == ("7", "https://a.example")


@pytest.mark.parametrize("text", [b"", b"{", b"{'a': 1}", b'{"a": NaN}', b"\xff", b"[" * 200_000])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="the payload is no JSON"):
        read_text(text)


@pytest.mark.parametrize("value", ["%%%", "AAAA", compressed(b"{}")[:-12]])
def test_what_is_no_base64_of_gzip_is_refused(value: str) -> None:
    assert problems_of({"configurationCompressed": value})[0].startswith('"configurationCompressed" is no base64')


def test_a_configuration_cannot_blow_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_CONFIGURATION_BYTES", 1024**2)

    (problem,) = problems_of({"configurationCompressed": compressed(b" " * 2 * 1024**2)})

    assert "unpacks to more than" in problem


def test_a_payload_without_json_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="the payload is \\(none\\)"):
        read_request(b"", request_id="r1", slug="flood")


@pytest.mark.parametrize(
    ("image", "patterns", "allowed"),
    [
        ("registry.example/models/flood:2", ("registry.example/models/*",), True),
        (f"registry.example/models/flood@sha256:{'0' * 64}", ("registry.example/models/*",), True),
        ("registry.example/models/a/b", ("registry.example/models/*",), False),
        ("registry.example/models/a/b", ("registry.example/models/**",), True),
        ("registry.example:5000/x", ("registry.example/*", "other/*"), False),
        ("evil.example/registry.example/models/x", ("registry.example/models/*",), False),
        ("registryXexample/models/x", ("registry.example/models/*",), False),
        ("registry.example/models/x --privileged", ("registry.example/models/**",), False),
        ("registry.example/models/x", (), False),
        ("", ("**",), False),
    ],
)
def test_an_image_has_to_fit_the_list_as_a_whole(image: str, patterns: tuple[str, ...], allowed: bool) -> None:
    assert image_allowed(image, patterns) is allowed


def test_the_address_of_results_follows_from_request_and_version() -> None:
    one, same = (
        read({"id": "7", "configuration": {"a": 1, "b": 2}}),
        read_text(b'{"id":"7","configuration":{"b":2,"a":1}}'),
    )
    other = read({"id": "7", "configuration": {"a": 1, "b": 3}})

    address = results_hash(one, "flood", "sha256:1")

    assert address == results_hash(same, "flood", "sha256:1")
    assert (
        len(
            {
                address,
                *(
                    results_hash(*each)
                    for each in [(other, "flood", "sha256:1"), (one, "fire", "sha256:1"), (one, "flood", "sha256:2")]
                ),
            }
        )
        == 4
    )
    assert set(address) <= set("0123456789abcdef")

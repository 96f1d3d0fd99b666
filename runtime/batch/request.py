"""A message as a request for runs: what it may look like, and everything that is wrong with it. No I/O but schemas.

| payload | asks for |
|---|---|
| the configuration itself, any JSON object | one run of the node's own model |
| {id, models: [{slug, imageURL}], configuration, callbackURL} | a run of each model; every key but one may be missing |
| the same with `configurationCompressed` | base64 of the gzip of the configuration's JSON |

The configuration reaches the model as the text that came, where there is one: spaces, order and digits stay. Of two
equal keys the last one wins, here and in whatever reads that text.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from runtime import wire
from runtime.batch.patterns import matches
from runtime.errors import DecodeError, KrtError
from runtime.payload import json_text

# Bytes of a configuration once it is inflated, models of one request, and characters of what names things.
MAX_CONFIGURATION_BYTES = 64 * 1024**2
MAX_MODELS = 100
MAX_TEXT = 500
# The keys of a request; a payload with `models`, or with nothing but these, is one, and any other a configuration.
CONFIGURATION, COMPRESSED = "configuration", "configurationCompressed"
_KEYS = {"id", "models", CONFIGURATION, COMPRESSED, "callbackURL"}
_MODEL_KEYS = {"slug", "imageURL"}
# What an image may be called: registry, path, tag, digest. No character of it means anything to a shell or a URL.
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]*(@sha256:[0-9a-f]{64})?")


class InvalidRequestError(KrtError):
    """A message asks for no run that could be made; `problems` has one sentence for each fault.

    id, callback_url: of the request, as far as they can be read: whoever sent it is told.
    """

    def __init__(self, problems: list[str], *, id: str = "", callback_url: str = "") -> None:
        super().__init__(f"Invalid model runner input JSON. Details: {'; '.join(problems)}")
        self.problems = tuple(problems)
        self.id = id
        self.callback_url = callback_url


class Model(NamedTuple):
    """A model that a request names. image: "" for the node's own."""

    slug: str
    image: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a message asks for. id: of the sender, else the request's. text: the configuration as the model reads it."""

    id: str
    models: tuple[Model, ...]
    configuration: Mapping[str, Any]
    text: bytes
    callback_url: str = ""


def read_request(payload: bytes, *, request_id: str, slug: str) -> Request:
    """Read a payload, a serialised `Any`. Raises InvalidRequestError with every fault.

    slug: of the node's own model.
    """
    text = _text_of(payload)
    said = _object_of(text, "the payload")
    if not _is_request(said):
        return Request(id=request_id, models=(Model(slug),), configuration=said, text=text)
    return _Reader(said, request_id, slug).read()


def results_hash(request: Request, slug: str, version: str) -> str:
    """Return what addresses the results of a run: SHA-256 (hex) over what they follow from.

    version: digest of the image, else the version of the model. The same request of the same model has the same.
    """
    said = {"configuration": request.configuration, "id": request.id, "slug": slug, "version": version}
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def image_allowed(image: str, patterns: tuple[str, ...]) -> bool:
    """Say whether an image of a request may run. In a pattern `*` is part of a path's step, and `**` any steps."""
    return _IMAGE.fullmatch(image) is not None and any(matches(pattern, image) for pattern in patterns)


def _text_of(payload: bytes) -> bytes:
    try:
        return json_text(payload)
    except DecodeError as error:
        raise InvalidRequestError([str(error)]) from error


def _object_of(text: bytes, what: str) -> dict[str, Any]:
    if len(text) > MAX_CONFIGURATION_BYTES:
        raise InvalidRequestError([f"{what} is larger than {MAX_CONFIGURATION_BYTES // 1024**2} MiB"])
    try:
        # Not orjson: a model may take integers of any size, and they are only passed on.
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError([f"{what} is no JSON: {error}"]) from error
    if not isinstance(value, dict):
        raise InvalidRequestError([f"{what} is {_kind(value)}, and has to be an object"])
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _is_request(said: Mapping[str, Any]) -> bool:
    configured = CONFIGURATION in said or COMPRESSED in said
    return configured and ("models" in said or said.keys() <= _KEYS)


class _Reader:
    """Reads a request key by key, and gathers what is wrong."""

    def __init__(self, said: Mapping[str, Any], request_id: str, slug: str) -> None:
        self._said = said
        self._request_id = request_id
        self._slug = slug
        self._problems: list[str] = []

    def read(self) -> Request:
        """Raises InvalidRequestError."""
        id, callback_url = self._text("id"), self._text("callbackURL")
        models = self._models()
        self._check_keys(self._said, _KEYS, "the request")
        text, configuration = self._configuration()
        if self._problems:
            raise InvalidRequestError(self._problems, id=id, callback_url=callback_url)
        return Request(
            id=id or self._request_id,
            models=models,
            configuration=configuration,
            text=text,
            callback_url=callback_url,
        )

    def _text(self, key: str) -> str:
        value = self._said.get(key)
        if value is None:
            return ""
        if isinstance(value, int) and not isinstance(value, bool):  # the ids of many databases
            value = str(value)
        if isinstance(value, str) and len(value) <= MAX_TEXT:
            return value
        self._problems.append(f'"{key}" has to be a text of at most {MAX_TEXT} characters')
        return ""

    def _models(self) -> tuple[Model, ...]:
        listed = self._said.get("models")
        if listed is None:
            return (Model(self._slug),)
        if not isinstance(listed, list) or not 0 < len(listed) <= MAX_MODELS:
            self._problems.append(f'"models" has to be a list of 1 to {MAX_MODELS} models: [{{"slug": name}}]')
            return ()
        return tuple(self._model(number, entry) for number, entry in enumerate(listed))

    def _model(self, number: int, entry: Any) -> Model:
        where = f"models[{number}]"
        slug = entry.get("slug") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(slug, str) or not 0 < len(slug) <= MAX_TEXT:
            self._problems.append(f'{where} has to be an object with a "slug"')
            return Model("")
        image = entry.get("imageURL") or ""
        if not isinstance(image, str) or len(image) > MAX_TEXT:
            self._problems.append(f'"imageURL" of {where} is no text')
            image = ""
        self._check_keys(entry, _MODEL_KEYS, where)
        return Model(slug, image)

    def _check_keys(self, said: Mapping[str, Any], known: set[str], where: str) -> None:
        if unknown := sorted(said.keys() - known):
            self._problems.append(f"{where} has no key {', '.join(repr(key[:80]) for key in unknown)}")

    def _configuration(self) -> tuple[bytes, dict[str, Any]]:
        if CONFIGURATION in self._said and COMPRESSED in self._said:
            self._problems.append(f'there is "{CONFIGURATION}" as well as "{COMPRESSED}"; give one of them')
            return b"", {}
        try:
            if COMPRESSED in self._said:
                text = _inflate(self._said[COMPRESSED])
                return text, _object_of(text, f'"{COMPRESSED}"')
            value = self._said[CONFIGURATION]
            if isinstance(value, dict):
                return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), value
        except InvalidRequestError as error:
            self._problems += error.problems
            return b"", {}
        self._problems.append(f'"{CONFIGURATION}" is {_kind(value)}, and has to be an object')
        return b"", {}


def _inflate(value: Any) -> bytes:
    if not isinstance(value, str):
        raise InvalidRequestError([f'"{COMPRESSED}" is {_kind(value)}, and has to be base64 of gzip'])
    try:
        return wire.inflate(base64.b64decode(value, validate=True), MAX_CONFIGURATION_BYTES)
    except (binascii.Error, ValueError, DecodeError) as error:
        raise InvalidRequestError([f'"{COMPRESSED}" is no base64 of gzip: {error}']) from error


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__

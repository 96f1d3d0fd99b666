"""`POST /webhooks/github`: runs that a `repository_dispatch` event of GitHub asks for.

The event's `client_payload` is the request, and the id of the delivery is its id: a delivery that GitHub sends again
makes no second run. `?node=` in the webhook's address names the node, where the driver starts runs of several.
"""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from runtime.drivers.http.answers import Refusal, json_response
from runtime.drivers.http.request import expect_json, headers_of
from runtime.drivers.http.runs import RunRoutes, taken

PATH = "/webhooks/github"
EVENT = "repository_dispatch"
SIGNATURE_HEADER, EVENT_HEADER, DELIVERY_HEADER = "x-hub-signature-256", "x-github-event", "x-github-delivery"
MAX_DELIVERY_CHARACTERS = 64


class GithubRoute:
    """Answers GitHub. Who sends is shown by the signature alone: there is no token."""

    def __init__(self, runs: RunRoutes, secret: str) -> None:
        self._runs = runs
        self._secret = secret.encode()

    def add_to(self, app: FastAPI) -> None:
        app.add_route(PATH, self.receive, methods=["POST"])

    def describe(self, document: dict[str, Any], *, has_tokens: bool) -> None:
        """It is for GitHub alone, which reads no document."""

    async def receive(self, request: Request) -> Response:
        headers = headers_of(request)
        body = await self._runs.read(request, headers)
        # Before anything in it is looked at.
        if not is_signed(body, headers.get(SIGNATURE_HEADER, ""), self._secret):
            raise Refusal("auth", "the signature does not fit the body and the secret of this driver")
        if (event := headers.get(EVENT_HEADER, "")) != EVENT:  # `ping`, and what was ticked by mistake
            return json_response({"ignored": event[:80]})
        expect_json(headers)
        delivery = _delivery(headers)
        return taken(delivery, await self._runs.start(self._node(request), _client_payload(body), delivery))

    def _node(self, request: Request) -> str:
        if named := request.query_params.get("node"):
            return named
        if len(self._runs.nodes) > 1:
            raise Refusal("invalid", f"name the node in the webhook's address: {PATH}?node={self._runs.nodes[0]}")
        return self._runs.nodes[0]


def is_signed(body: bytes, signature: str, secret: bytes) -> bool:
    """Say whether GitHub's signature is that of the body: `sha256=` and the HMAC as hex."""
    expected = f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"
    return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))


def _delivery(headers: Mapping[str, str]) -> str:
    delivery = headers.get(DELIVERY_HEADER, "")
    if not 0 < len(delivery) <= MAX_DELIVERY_CHARACTERS or not delivery.isascii() or not delivery.isprintable():
        raise Refusal("invalid", f"the header {DELIVERY_HEADER} holds no id")
    return delivery


def _client_payload(body: bytes) -> bytes:
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal("invalid", f"the body is no JSON: {error}") from None
    payload = event.get("client_payload") if isinstance(event, dict) else None
    if not isinstance(payload, dict):
        raise Refusal("invalid", 'the event has no "client_payload" that is an object')
    return orjson.dumps(payload)

"""The routes of `FastAPIDriver`, and what each answers.

    POST   /predict       200 outputs; with `Accept: text/event-stream` every output as an event
    POST   /tasks         202 {task_id}
    GET    /tasks/{id}    202 pending, 200 result, the outcome's status for a failed one, 404; ?wait=10s
    DELETE /tasks/{id}    204 cancelled, 409 ended before
    GET    /health /ready /schema /openapi.json /docs /

Those for algorithms are in `algorithms.py`, for batch runs in `runs.py` and `github.py`.

A request is admitted, read, checked, sent, and answered: `_call` and what follows it in each route. Every error is JSON
with its outcome. The routes are plain ones of Starlette: FastAPI's own would check again what is checked here.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.client import Reply
from runtime.drivers.base import RestrictedInferenceProcess
from runtime.drivers.http import pages
from runtime.drivers.http.admission import Admission, Slot
from runtime.drivers.http.algorithm_openapi import add_algorithms
from runtime.drivers.http.algorithms import AlgorithmRoutes
from runtime.drivers.http.answers import CLIENT_GONE, RETRY_S, Refusal, json_response, value_response
from runtime.drivers.http.events import EVENT_STREAM, EventResponse
from runtime.drivers.http.openapi import openapi
from runtime.drivers.http.readiness import why_not_ready
from runtime.drivers.http.request import Call, Terms, cancelled_when_gone, headers_of, read_body, read_call, wait_of
from runtime.drivers.http.task_record import CANCELLED
from runtime.drivers.http.tasks import Tasks
from runtime.drivers.http.workflow_types import WorkflowTypes
from runtime.errors import BusError, EncodeError, MessageTooLargeError, PredictionError
from runtime.message import ReplyOutcome, new_request_id
from runtime.payload import decode_value
from runtime.spec.schema_check import Fault

T = TypeVar("T")

PREDICT = ("/predict", "POST")
TASK_ID = re.compile(r"[0-9a-f]{32}")


class MoreRoutes(Protocol):
    """Routes that a driver offers only when it is told to."""

    def add_to(self, app: FastAPI) -> None: ...

    def describe(self, document: dict[str, Any], *, has_tokens: bool) -> None:
        """Add them to the OpenAPI document."""
        ...


class HttpApp:
    """Answers requests to one workflow."""

    def __init__(
        self,
        inference: RestrictedInferenceProcess,
        admission: Admission,
        tasks: Tasks,
        types: WorkflowTypes,
        terms: Callable[[], Terms],
        *,
        has_tokens: bool,
        algorithms: AlgorithmRoutes | None = None,
        more: Sequence[MoreRoutes] = (),
    ) -> None:
        """algorithms: None offers none. more: what else a driver offers."""
        self._inference = inference
        self._admission = admission
        self._tasks = tasks
        self._terms = terms
        self._has_tokens = has_tokens
        self._types = types
        self._algorithms = algorithms
        self._more = more

    def routes(self) -> FastAPI:
        """Return the app. What a user adds to it is in its OpenAPI document, too."""
        app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        app.add_route(PREDICT[0], self.predict, methods=[PREDICT[1]])
        app.add_route("/tasks", self.create_task, methods=["POST"])
        app.add_route("/tasks/{task_id}", self.task, methods=["GET", "DELETE"])
        app.add_route("/health", self.health, methods=["GET"])
        app.add_route("/ready", self.ready, methods=["GET"])
        app.add_route("/schema", self.schema, methods=["GET"])
        if self._algorithms is not None:  # before `/`, to which programs have another answer
            self._algorithms.add_to(app)
        for each in self._more:
            each.add_to(app)
        app.add_route("/openapi.json", partial(self._document, app), methods=["GET"])
        app.add_route("/docs", pages.docs, methods=["GET"])
        app.add_route("/favicon.svg", pages.favicon, methods=["GET"])
        app.add_route("/", pages.root, methods=["GET"])
        for kind, answer in _ERRORS.items():
            app.add_exception_handler(kind, answer)
        return app

    def short_way(self, app: FastAPI) -> ASGIApp:
        """Return `routes()` with a way to `/predict` around FastAPI's layers, which cost a quarter of the request.

        There is none when a subclass has added middleware, which has to see every request.
        """
        if app.user_middleware:
            return app

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or (scope["path"], scope["method"]) != PREDICT:
                await app(scope, receive, send)
                return
            request = Request(scope, receive, send)
            try:
                response = await self.predict(request)
            except tuple(_ERRORS) as error:
                kind = next(kind for kind in type(error).__mro__ if kind in _ERRORS)
                response = await _ERRORS[kind](request, error)
            await response(scope, receive, send)

        return answer

    # --- predict ---

    async def predict(self, request: Request) -> Response:
        slot = self._admission.enter()
        try:
            headers = headers_of(request)
            call = await self._read(request, headers, slot)
            request_id = new_request_id()
            if EVENT_STREAM in headers.get("accept", ""):
                first, replies = await self._first_reply(request, call, slot, request_id)
                return EventResponse(first, replies, slot, request_id)  # which has the slot from now on
            prediction = self._inference.predict(
                call.inputs, call.state_id, timeout=call.timeout_s, headers=call.headers, request_id=request_id
            )
            with cancelled_when_gone(request, prediction.cancel):
                value = await _answered(prediction, slot)
        except BaseException:
            slot.close()
            raise
        slot.close()
        return value_response(value, request_id, headers.get("accept", ""))

    async def _first_reply(
        self, request: Request, call: Call, slot: Slot, request_id: str
    ) -> tuple[Reply | None, AsyncIterator[Reply]]:
        """Send a request with several outputs and wait for the first: until then a failure still has its own status."""
        replies = self._inference.predict_all(
            call.inputs, call.state_id, timeout=call.timeout_s, headers=call.headers, request_id=request_id
        )
        waiting = asyncio.ensure_future(anext(replies, None))
        with cancelled_when_gone(request, waiting.cancel):
            return await _answered(waiting, slot), replies

    async def _read(self, request: Request, headers: Mapping[str, str], slot: Slot) -> Call:
        """Read, check and admit a request. Raises Refusal, with nothing sent."""
        terms = self._terms()
        body = await read_body(request, int(headers.get("content-length", 0)), terms.max_body, terms.body_s)
        call = read_call(headers, body, self._types.schema.inputs, self._types.check, terms.timeout_s)
        await self._admission.admit(slot, call.timeout_s)
        return call

    # --- tasks ---

    async def create_task(self, request: Request) -> Response:
        slot = self._admission.enter()
        try:
            task_id = await self._tasks.submit(await self._read(request, headers_of(request), slot), slot)
        except BaseException:  # not taken; otherwise the task keeps its slot until it has ended
            slot.close()
            raise
        return _pending(task_id, location=f"/tasks/{task_id}")

    async def task(self, request: Request) -> Response:
        task_id: str = request.path_params["task_id"]
        if not TASK_ID.fullmatch(task_id):
            raise _unknown(task_id)
        return await (self._cancel_task(task_id) if request.method == "DELETE" else self._task_result(task_id, request))

    async def _task_result(self, task_id: str, request: Request) -> Response:
        record = await self._tasks.read(task_id, wait_of(request.query_params.get("wait", "0")))
        if record is None:
            raise _unknown(task_id)
        if record.is_pending:
            return _pending(task_id)
        if record.outcome == ReplyOutcome.OK:
            return value_response(decode_value(record.payload), task_id, request.headers.get("accept", ""))
        raise Refusal(record.outcome, record.detail, node=record.node, request_id=task_id)

    async def _cancel_task(self, task_id: str) -> Response:
        record = await self._tasks.cancel(task_id)
        if record is None:
            raise _unknown(task_id)
        if record.outcome != CANCELLED:
            raise Refusal(CANCELLED, f"the task has ended before: {record.outcome}", request_id=task_id)
        return Response(status_code=204)

    # --- about the driver ---

    async def health(self, request: Request) -> Response:
        return json_response({"healthy": True})

    async def ready(self, request: Request) -> Response:
        if detail := await why_not_ready(self._inference):
            raise Refusal(ReplyOutcome.UNAVAILABLE, detail, retry_after_s=RETRY_S)
        return json_response({"ready": True})

    async def schema(self, request: Request) -> Response:
        schema = self._types.schema
        return json_response({"workflow": self._inference.workflow, "inputs": schema.inputs, "outputs": schema.outputs})

    async def _document(self, app: FastAPI, request: Request) -> Response:
        own = openapi(self._inference.workflow, self._types.schema, has_tokens=self._has_tokens)
        if self._algorithms is not None:
            add_algorithms(own, await self._algorithms.described(), has_tokens=self._has_tokens)
        for each in self._more:
            each.describe(own, has_tokens=self._has_tokens)
        added = get_openapi(title="", version="", routes=app.routes)
        own["paths"] = {**added["paths"], **own["paths"]}
        own["components"]["schemas"] |= added.get("components", {}).get("schemas", {})
        return json_response(own)


async def _answered(answer: Awaitable[T], slot: Slot) -> T:
    """Return the answer of the workflow. Raises Refusal."""
    try:
        value = await answer
    except PredictionError as error:
        slot.answered = bool(error.node)
        raise Refusal.of(error) from error
    slot.answered = True
    return value


def _pending(task_id: str, location: str = "") -> Response:
    headers = {"Location": location} if location else {"Retry-After": "1"}
    return json_response({"task_id": task_id, "state": "pending"}, 202, headers)


def _unknown(task_id: str) -> Refusal:
    return Refusal("unknown", f"there is no task {task_id}; it is unknown, or its result has expired")


# --- errors that end a request ---


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _on_invalid(request: Request, error: Exception) -> Response:
    """Answer what FastAPI finds wrong in a request to a user's own route."""
    assert isinstance(error, RequestValidationError)
    faults = [Fault(".".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors()]
    return Refusal("invalid", "; ".join(map(str, faults)), faults=faults).response()


async def _on_http(request: Request, error: Exception) -> Response:
    """Answer an unknown path, and a method that a path does not have."""
    assert isinstance(error, HTTPException)
    outcome = "unknown" if error.status_code == 404 else "invalid"
    return Refusal(outcome, error.detail, status=error.status_code, headers=error.headers).response()


async def _on_unsendable(request: Request, error: Exception) -> Response:
    return Refusal("invalid", str(error)).response()


async def _on_too_large(request: Request, error: Exception) -> Response:
    return Refusal("too-large", str(error)).response()


async def _on_bus(request: Request, error: Exception) -> Response:
    return Refusal("unavailable", f"NATS or the workflow cannot be reached: {error}", retry_after_s=RETRY_S).response()


async def _on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


_ERRORS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Refusal: _on_refusal,
    RequestValidationError: _on_invalid,
    HTTPException: _on_http,
    EncodeError: _on_unsendable,
    MessageTooLargeError: _on_too_large,
    BusError: _on_bus,
    ClientDisconnect: _on_gone,
}

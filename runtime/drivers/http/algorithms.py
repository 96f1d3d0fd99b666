"""The routes of `FastAPIDriver` for algorithms: run them, list them, read their schemas, register plain HTTP runners.

    POST /run/{algorithm}   200 {"result": …}; header `Krt-Timeout`
    GET  /algorithms        {name: {runner, version, instances, schema_hash, doc}}
    POST /algorithms        201; {"algorithm", "host"} of a plain HTTP runner, see `algorithm_hosts.py`
    GET  /schemas           {name: JSON Schema of its request}
    GET  /schemas/{name}    schemas of request and response

`POST /` and `GET /` are the paths of a registry as others have written them: the second tells programs the mapping of
names to the address where they are run, which is the driver's, and leads browsers to the page.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from runtime.algorithms.client import AlgorithmResult, Algorithms
from runtime.algorithms.registry import ServedAlgorithm
from runtime.algorithms.wire import Outcome
from runtime.bus.base import Bus
from runtime.clock import Clock
from runtime.drivers.http import pages
from runtime.drivers.http.admission import Admission
from runtime.drivers.http.algorithm_openapi import Described
from runtime.drivers.http.answers import REQUEST_ID_HEADER, RETRY_S, Refusal, json_response
from runtime.drivers.http.request import (
    Terms,
    cancelled_when_gone,
    expect_json,
    headers_of,
    read_body,
    timeout_of,
    trace_of,
)
from runtime.errors import AlgorithmError
from runtime.message import new_request_id

if TYPE_CHECKING:
    from runtime.drivers.http.algorithm_hosts import AlgorithmHosts

log = logging.getLogger(__name__)

# The header's value in which a browser asks for a page.
PAGE = "text/html"


class AlgorithmRoutes:
    """Answers requests about algorithms. To be closed."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        admission: Admission,
        terms: Callable[[], Terms],
        hosts: "AlgorithmHosts | None",
    ) -> None:
        """hosts: None registers nobody."""
        self._algorithms = Algorithms(bus, clock)
        self._admission = admission
        self._terms = terms
        self._hosts = hosts
        # Schemas by name and hash: they never change, and are asked for with every look at the page.
        self._described: dict[tuple[str, str], Described] = {}

    async def close(self) -> None:
        await self._algorithms.close()

    def add_to(self, app: FastAPI) -> None:
        """Add the routes; those that are here already come first."""
        app.add_route("/run/{algorithm}", self.run, methods=["POST"])
        app.add_route("/algorithms", self.list_served, methods=["GET"])
        app.add_route("/schemas", self.schemas, methods=["GET"])
        app.add_route("/schemas/{algorithm}", self.schema, methods=["GET"])
        app.add_route("/", self.root, methods=["GET"])
        for path in ("/algorithms", "/"):
            app.add_route(path, self.register, methods=["POST"])

    # --- routes ---

    async def run(self, request: Request) -> Response:
        with self._admission.enter():
            headers, terms = headers_of(request), self._terms()
            expect_json(headers)
            timeout_s = timeout_of(headers, terms.timeout_s)
            body = await _body(request, headers, terms)
            request_id = new_request_id()
            calling = asyncio.ensure_future(
                self._algorithms.call(
                    request.path_params["algorithm"], body,
                    timeout_s=timeout_s, request_id=request_id, traceparent=trace_of(headers),
                )
            )  # fmt: skip
            with cancelled_when_gone(request, calling.cancel):
                answer = await self._answered(calling, request.path_params["algorithm"], request_id)
            return json_response({"result": answer.result}, headers={REQUEST_ID_HEADER: request_id})

    async def list_served(self, request: Request) -> Response:
        served = await self._algorithms.list()
        return json_response({name: _listed(each) for name, each in served.items()})

    async def schemas(self, request: Request) -> Response:
        return json_response({each.name: each.request for each in await self.described()})

    async def schema(self, request: Request) -> Response:
        try:
            return json_response(await self._algorithms.describe(request.path_params["algorithm"]))
        except AlgorithmError as error:
            raise await self._refusal(error, "") from error

    async def root(self, request: Request) -> Response:
        if PAGE in headers_of(request).get("accept", ""):
            return await pages.root(request)
        address = str(request.base_url).rstrip("/")
        return json_response(dict.fromkeys(await self._algorithms.list(), address))

    async def register(self, request: Request) -> Response:
        if self._hosts is None:
            detail = "this driver registers no HTTP runners; its argument algorithm_hosts says which it may"
            raise Refusal("auth", detail, status=403)
        headers = headers_of(request)
        expect_json(headers)
        name, host = _registration(await _body(request, headers, self._terms()))
        return json_response(await self._hosts.register(name, host), 201)

    # --- what is served ---

    async def described(self) -> Sequence[Described]:
        """Return what is served now with its schemas, by name; one that goes while it is asked is left out.

        Raises BusError.
        """
        served = await self._algorithms.list()
        asked = await asyncio.gather(*(self._describe(each) for each in served.values()))
        self._described = {(each.name, each.hash): each for each in asked if each is not None}
        return list(self._described.values())

    async def _describe(self, served: ServedAlgorithm) -> Described | None:
        if known := self._described.get((served.name, served.hash)):
            return known
        try:
            told = await self._algorithms.describe(served.name)
        except AlgorithmError as error:
            log.debug("%s has gone while it was asked for its schemas: %s", served.name, error.detail)
            return None
        return Described(
            name=served.name, hash=served.hash, doc=told["doc"], request=told["request"], response=told["response"]
        )

    # --- how a call ends ---

    async def _answered(
        self, calling: "asyncio.Future[AlgorithmResult]", algorithm: str, request_id: str
    ) -> AlgorithmResult:
        try:
            return await calling
        except AlgorithmError as error:
            if error.outcome in (Outcome.FAILED, Outcome.BAD_IMPLEMENTATION):
                log.error(
                    "algorithm %s has failed: %s", algorithm, error.traceback or error.detail,
                    extra={"action": "algorithm-failed", "request_id": request_id},
                )  # fmt: skip
            raise await self._refusal(error, request_id) from error

    async def _refusal(self, error: AlgorithmError, request_id: str) -> Refusal:
        """Return what the caller is told of a call without a result."""
        detail = error.detail
        said: dict[str, Any] = {}
        if error.outcome == Outcome.FAILED:
            detail = self._failure(error, request_id)
        elif error.outcome == Outcome.UNKNOWN:
            said["known"] = list(await self._algorithms.list())
        elif error.errors:
            said["errors"] = error.errors
        waits = error.outcome in (Outcome.BUSY, Outcome.UNAVAILABLE)
        return Refusal(error.outcome, detail, retry_after_s=RETRY_S if waits else 0.0, request_id=request_id, said=said)

    def _failure(self, error: AlgorithmError, request_id: str) -> str:
        if self._terms().expose_tracebacks:
            return error.traceback or error.detail
        return f"the algorithm has failed; the log of the driver tells more of request {request_id}"


async def _body(request: Request, headers: Mapping[str, str], terms: Terms) -> bytes:
    return await read_body(request, int(headers.get("content-length", 0)), terms.max_body, terms.body_s)


def _listed(served: ServedAlgorithm) -> dict[str, Any]:
    return {
        "runner": ", ".join(served.runners),
        "version": served.version,
        "instances": len(served.instances),
        "schema_hash": served.hash,
        "doc": served.doc,
    }


def _registration(body: bytes) -> tuple[str, str]:
    """Return the name and the address of a runner. Raises Refusal with everything that is wrong."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal("invalid", f"the body is no JSON: {error}") from None
    if not isinstance(said, dict):
        raise Refusal("invalid", 'the body is no object; send {"algorithm": name, "host": "http://host:port"}')
    wanted = ("algorithm", "host")
    errors = [{"path": key, "message": "is no text"} for key in wanted if not isinstance(said.get(key), str)]
    errors += [{"path": key, "message": "is unknown"} for key in said if key not in wanted]
    if errors:
        detail = "; ".join(f"{each['path']} {each['message']}" for each in errors)
        raise Refusal("invalid", detail, said={"errors": errors})
    return said["algorithm"], said["host"]

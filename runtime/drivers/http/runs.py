"""The routes of `FastAPIDriver` for batch runs.

POST   /runs/{node}                  202 {id, runIds}; ?wait=30s: {id, runs} with the status of how they have ended
GET    /runs                         {runs: [record]}, the newest first; ?state= ?node= ?limit=
GET    /runs/{id}                    the record
DELETE /runs/{id}                    202 the record; it ends when its processes have. 409 too late
GET    /runs/{id}/logs               what the run has written; of one that goes on, what it writes until its end
GET    /runs/{id}/artifacts          {artifacts, leftOut}
GET    /runs/{id}/artifacts/{path}   a file; a public one needs no token
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from runtime.batch.artifact_stores import open_store
from runtime.batch.artifacts import ArtifactNotFoundError, ArtifactStore, artifact_key
from runtime.batch.records import RunRecords
from runtime.batch.request import InvalidRequestError
from runtime.batch.run import Artifact, Reason, RunRecord, RunState
from runtime.batch.submit import submit
from runtime.bus.base import Bus
from runtime.clock import Clock
from runtime.drivers.http.access import REFUSAL
from runtime.drivers.http.admission import Admission
from runtime.drivers.http.answers import BYTES, JSON, REQUEST_ID_HEADER, RETRY_S, STATUSES, Refusal, json_response
from runtime.drivers.http.request import Terms, cancelled_when_gone, expect_json, headers_of, read_body, wait_of
from runtime.drivers.http.run_openapi import MAX_REQUEST_ID_CHARACTERS, add_runs
from runtime.drivers.http.run_output import live_output
from runtime.errors import ConfigError, NotFoundError, RunStateError, StoreError
from runtime.message import new_request_id

# The path of a file, whose visibility decides who may have it.
ARTIFACT_PATH = re.compile(r"/runs/[^/]+/artifacts/.+")
# Runs that one answer lists when the request does not say, and at most.
DEFAULT_LIMIT, MAX_LIMIT = 100, 1_000
IDEMPOTENCY_HEADER = "idempotency-key"
# What a run has written to both of its streams, with the time of each line.
LOG = "log/runner.log"

# Outcome of a request that has waited, by the ending of its run.
_OUTCOMES = {
    RunState.COMPLETE: "ok",
    RunState.UNSUPPORTED: "unsupported",
    RunState.CANCELLED: "cancelled",
    RunState.FAILED: "failed",
    RunState.TIMED_OUT: "timeout",
}
_FAILURES = {Reason.INVALID_INPUT: "invalid", Reason.BACKEND_UNAVAILABLE: "unavailable"}


class RunRoutes:
    """Answers requests for batch runs. To be closed."""

    def __init__(
        self,
        bus: Bus,
        stream: str,
        clock: Clock,
        admission: Admission,
        terms: Callable[[], Terms],
        nodes: Sequence[str],
    ) -> None:
        """nodes: of kind batch, which may be asked for runs."""
        self.nodes = tuple(nodes)
        self._bus = bus
        self._stream = stream
        self._records = RunRecords(bus, stream, clock)
        self._admission = admission
        self._terms = terms
        self._stores: dict[str, ArtifactStore] = {}
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        for store in self._stores.values():
            await store.close()

    def add_to(self, app: FastAPI) -> None:
        app.add_route("/runs", self.list_runs, methods=["GET"])
        app.add_route("/runs/{node}", self.submit, methods=["POST"])
        app.add_route("/runs/{run_id}", self.show, methods=["GET"])
        app.add_route("/runs/{run_id}", self.cancel, methods=["DELETE"])
        app.add_route("/runs/{run_id}/logs", self.logs, methods=["GET"])
        app.add_route("/runs/{run_id}/artifacts", self.artifacts, methods=["GET"])
        app.add_route("/runs/{run_id}/artifacts/{path:path}", self.artifact, methods=["GET"])

    def describe(self, document: dict[str, Any], *, has_tokens: bool) -> None:
        add_runs(document, self.nodes, list(RunState), has_tokens=has_tokens)

    # --- asking for runs ---

    async def submit(self, request: Request) -> Response:
        with self._admission.enter():
            headers, wait_s = headers_of(request), wait_of(request.query_params.get("wait", "0"))
            expect_json(headers)
            body = await self.read(request, headers)
            request_id = _request_id(headers)
            run_ids = await self.start(request.path_params["node"], body, request_id)
            if wait_s:
                waiting = asyncio.ensure_future(self._ended(run_ids, wait_s))
                with cancelled_when_gone(request, waiting.cancel):
                    if (records := await waiting) is not None:
                        return _results(request_id, records)
        return taken(request_id, run_ids)

    async def read(self, request: Request, headers: Mapping[str, str]) -> bytes:
        """Return the body. Raises Refusal, ClientDisconnect."""
        terms = self._terms()
        return await read_body(request, int(headers.get("content-length", 0)), terms.max_body, terms.body_s)

    async def start(self, node: str, text: bytes, request_id: str) -> Sequence[str]:
        """Store a request for runs, and return their ids. Raises Refusal, BusError."""
        if node not in self.nodes:
            known = ", ".join(self.nodes)
            raise Refusal("unknown", f'this driver starts no runs of a node "{node}"; there are: {known}')
        try:
            return await submit(self._bus, self._stream, node, text, request_id=request_id)
        except InvalidRequestError as error:
            raise Refusal("invalid", str(error), request_id=request_id) from error
        except NotFoundError as error:
            raise Refusal("unavailable", str(error), retry_after_s=RETRY_S, request_id=request_id) from error

    async def _ended(self, run_ids: Sequence[str], timeout_s: float) -> list[RunRecord] | None:
        """Return all runs once they have ended; None if that takes longer."""
        ended: dict[str, RunRecord] = {}
        all_ended = asyncio.Event()

        def on_record(record: RunRecord) -> None:
            if record.state.is_final:
                ended[record.run_id] = record
            if len(ended) == len(run_ids):
                all_ended.set()

        watches = [await self._records.follow(run_id, on_record) for run_id in run_ids]
        try:
            async with asyncio.timeout(timeout_s):
                await all_ended.wait()
        except TimeoutError:
            return None
        finally:
            for watch in watches:
                await watch.unsubscribe()
        return [ended[run_id] for run_id in run_ids]

    # --- runs ---

    async def list_runs(self, request: Request) -> Response:
        asked = request.query_params
        state, node, limit = asked.get("state", ""), asked.get("node", ""), _limit(asked.get("limit", ""))
        try:
            every = await self._records.all()
        except NotFoundError as error:  # of the bucket, which the manager makes
            raise Refusal("unavailable", str(error), retry_after_s=RETRY_S) from error
        found = [each for each in every if state in ("", each.summary.state) and node in ("", each.summary.node)]
        shown = [orjson.loads(each.data) for each in found[:limit]]
        return json_response({"runs": shown, "more": len(found) > limit})

    async def show(self, request: Request) -> Response:
        return json_response(_told(await self._record(request)))

    async def cancel(self, request: Request) -> Response:
        record = await self._record(request)
        try:
            return json_response(_told(await self._records.cancel(record.run_id)), 202)
        except RunStateError as error:
            raise Refusal("cancelled", str(error)) from error

    # --- what they leave ---

    async def logs(self, request: Request) -> Response:
        record = await self._record(request)
        if not record.state.is_final:
            return StreamingResponse(live_output(self._records, record.run_id), media_type="text/plain; charset=utf-8")
        return await self._file(record, LOG, media_type="text/plain; charset=utf-8")

    async def artifacts(self, request: Request) -> Response:
        record = await self._record(request)
        found = [artifact.model_dump(by_alias=True) for artifact in record.artifacts]
        return json_response({"artifacts": found, "leftOut": record.left_out})

    async def artifact(self, request: Request) -> Response:
        """Whoever shows no token is told of public files alone, and not even whether there are others."""
        refusal: Refusal | None = request.scope.get(REFUSAL)
        path = request.path_params["path"]
        try:
            record = await self._record(request)
            return await self._file(record, path, only_public=refusal is not None)
        except Refusal as error:
            raise refusal or error from None

    async def _file(self, record: RunRecord, path: str, *, only_public: bool = False, media_type: str = "") -> Response:
        try:
            store = await self._store(record)
            artifact = await _find(record, path, store)
            if only_public and artifact.visibility != "public":
                raise _unknown_file(record, path)
            pieces = store.get(artifact_key(record.locations.results, artifact.visibility, path))
            # The first one now: what is missing still has a status of its own.
            first = await anext(pieces, b"")
        except ArtifactNotFoundError as error:
            raise _unknown_file(record, path) from error
        except (StoreError, ConfigError) as error:
            detail = f"the store of the run's files cannot be read: {error}"
            raise Refusal("unavailable", detail, retry_after_s=RETRY_S) from error
        headers = {
            "Content-Length": str(artifact.size),
            "ETag": f'"{artifact.sha256}"',
            # A model's output may be a page: it must never run as one of this server's.
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(path.rpartition('/')[2], safe='')}",
            "X-Content-Type-Options": "nosniff",
        }
        kind = media_type or (JSON if path.endswith(".json") else BYTES)
        return StreamingResponse(_with_first(first, pieces), headers=headers, media_type=kind)

    async def _store(self, record: RunRecord) -> ArtifactStore:
        """Return the store of a run's files, opened once. Raises StoreError, ConfigError, Refusal."""
        location = record.locations.store
        if not record.locations.results:
            raise Refusal("unknown", f"run '{record.run_id}' has stored no files: it is {record.state}")
        async with self._opening:
            if location not in self._stores:
                self._stores[location] = await open_store(location, bus=self._bus, stream=self._stream)
        return self._stores[location]

    async def _record(self, request: Request) -> RunRecord:
        """Raises Refusal, BusError."""
        run_id = request.path_params["run_id"]
        try:
            found = await self._records.find(run_id)
        except NotFoundError as error:
            raise Refusal("unavailable", str(error), retry_after_s=RETRY_S) from error
        if found is None:
            raise Refusal("unknown", "there is no such run; it is unknown, not taken by a worker yet, or expired")
        return found.record


def taken(request_id: str, run_ids: Sequence[str]) -> Response:
    """Return the answer to a request that is stored, whose runs go on."""
    headers = {"Location": f"/runs/{run_ids[0]}", REQUEST_ID_HEADER: request_id}
    return json_response({"id": request_id, "runIds": list(run_ids)}, 202, headers)


def _results(request_id: str, records: Sequence[RunRecord]) -> Response:
    """Return how runs have ended, with the status of the first one that is not complete."""
    outcomes = (_FAILURES.get(each.reason, _OUTCOMES[each.state]) if each.reason else "ok" for each in records)
    outcome = next((each for each in outcomes if each != "ok"), "ok")
    body = {"id": request_id, "runs": [record.result() for record in records]}
    return json_response(body, STATUSES[outcome], {REQUEST_ID_HEADER: request_id})


def _request_id(headers: Mapping[str, str]) -> str:
    """Return the id of a request: that of the sender, under which a repetition makes no second run. Raises Refusal."""
    given = headers.get(IDEMPOTENCY_HEADER)
    if given is None:
        return new_request_id()
    if not given.isascii() or not given.isprintable() or not 0 < len(given) <= MAX_REQUEST_ID_CHARACTERS:
        detail = f"{IDEMPOTENCY_HEADER} has to be 1 to {MAX_REQUEST_ID_CHARACTERS} printable ASCII characters"
        raise Refusal("invalid", detail)
    return given


def _limit(text: str) -> int:
    if not text:
        return DEFAULT_LIMIT
    if not text.isdecimal() or not text.isascii() or not 0 < int(text[:9]) <= MAX_LIMIT:
        raise Refusal("invalid", f"limit is {text[:20]!r}; give a number from 1 to {MAX_LIMIT:,}")
    return int(text[:9])


def _told(record: RunRecord) -> dict[str, Any]:
    return record.model_dump(mode="json", by_alias=True)


async def _find(record: RunRecord, path: str, store: ArtifactStore) -> Artifact:
    """Return a file of a run by its path. Raises Refusal, StoreError."""
    for artifact in record.artifacts:
        if artifact.path == path:
            return artifact
    if record.left_out:
        for visibility in ("public", "private"):
            try:
                found = await store.stat(artifact_key(record.locations.results, visibility, path))
            except ArtifactNotFoundError:
                continue
            return Artifact(path=path, size=found.size, sha256=found.sha256, visibility=visibility)
    raise _unknown_file(record, path)


def _unknown_file(record: RunRecord, path: str) -> Refusal:
    return Refusal("unknown", f"run '{record.run_id}' has no file {path[:200]!r}")


async def _with_first(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece

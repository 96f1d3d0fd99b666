"""`FastAPIDriver`: a workflow as an HTTP server. Its routes are in `http/app.py`.

    proc.add_driver("webapi", FastAPIDriver)
    proc.add_driver("webapi", FastAPIDriver, token_env="HTTP_TOKEN", tls="certs/")
    proc.add_driver("webapi", FastAPIDriver, algorithms=True)
    proc.add_driver("webapi", FastAPIDriver, runs=["flood"], github_secret_env="GITHUB_SECRET")

A subclass may add routes of its own:

    class WithCities(FastAPIDriver):
        def add_routes(self, app: FastAPI) -> None:
            app.get("/cities")(list_cities)
"""

import asyncio
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI
from pydantic import BeforeValidator, Field

from runtime.clock import Clock, SystemClock
from runtime.drivers.base import (
    DriverParameters,
    DriverResources,
    DriverResourcesRequest,
    PipelineDriver,
    RestrictedInferenceProcess,
    ValueProblem,
)
from runtime.drivers.durations import read_bytes, read_seconds
from runtime.drivers.http.access import READING_METHODS, Gate
from runtime.drivers.http.admission import Admission
from runtime.drivers.http.algorithms import AlgorithmRoutes
from runtime.drivers.http.app import HttpApp, MoreRoutes
from runtime.drivers.http.github import PATH as GITHUB_PATH
from runtime.drivers.http.github import GithubRoute
from runtime.drivers.http.protocol import HttpLimits
from runtime.drivers.http.request import Terms
from runtime.drivers.http.runs import ARTIFACT_PATH, RunRoutes
from runtime.drivers.http.server import HttpServer
from runtime.drivers.http.tasks import Tasks
from runtime.drivers.http.workflow_types import WorkflowTypes
from runtime.drivers.tls import server_tls, warn_of_openness
from runtime.drivers.tokens import Tokens
from runtime.errors import ConfigError
from runtime.spec.driver import DEFAULT_STOP_TIMEOUT_S

if TYPE_CHECKING:
    from runtime.drivers.http.algorithm_hosts import AlgorithmHosts

PORT = "http"
# Seconds that running requests have after `stop`: less than the runtime waits for the driver.
GRACE_S = DEFAULT_STOP_TIMEOUT_S - 2.0
DAY_S = 86_400.0

Seconds = Annotated[float, BeforeValidator(read_seconds), Field(gt=0, le=DAY_S)]
Bytes = Annotated[int, BeforeValidator(read_bytes), Field(ge=1)]


@dataclass
class FastAPIParameters(DriverParameters):
    """Times in seconds or with a unit (`60s`), sizes in bytes or with a unit (`16Mi`).

    task_ttl: how long a result is kept from its end; a change holds for tasks that end afterwards. timeout: of requests
    that do not say. max_in_flight: requests and tasks without an answer. max_body: of one request. cors: origins whose
    pages may use the driver from a browser; `*` is any. expose_tracebacks: of algorithms that fail, to the caller; the
    log has them in any case.
    """

    task_ttl: Seconds = 60.0
    timeout: Seconds = 30.0
    max_in_flight: Annotated[int, Field(ge=1)] = 256
    max_body: Bytes = 16 * 1024 * 1024
    cors: Sequence[str] = field(default_factory=tuple)
    expose_tracebacks: bool = True


class FastAPIDriver(PipelineDriver):
    """Serves one workflow over HTTP until stopped."""

    def __init__(
        self,
        *,
        port: int = 0,
        token_env: str = "",
        tls: str | Path = "",
        algorithms: bool = False,
        algorithm_hosts: Sequence[str] = (),
        runs: Sequence[str] = (),
        github_secret_env: str = "",
        parameters: FastAPIParameters | None = None,
        limits: HttpLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        """token_env: variable with the tokens, see `tokens.Tokens`; without one everybody is let in.

        tls: credentials folder with `tls.crt`, `tls.key`, and `ca.crt` where clients need a certificate.
        algorithms: offer every algorithm of the NATS account. algorithm_hosts: patterns of addresses that may register
        as plain HTTP runners, and are called then, as `http://*.internal:5000`.
        runs: nodes of kind batch that may be asked for runs. github_secret_env: variable with the secret of webhooks of
        GitHub that ask for some.
        Raises ConfigError for a variable without a token or secret, and for unusable credentials.
        """
        self._port = port
        self._tokens = Tokens.read(os.environ.get(token_env, ""), token_env) if token_env else None
        self._tls: ssl.SSLContext | None = server_tls(Path(tls)) if tls else None
        self._parameters = parameters or FastAPIParameters()
        self._limits = limits or HttpLimits()
        self._with_algorithms = algorithms or bool(algorithm_hosts)
        self._algorithm_hosts = tuple(algorithm_hosts)
        self._runs = tuple(runs)
        self._github_secret = _github_secret(github_secret_env, self._runs)
        self._clock: Clock = clock or SystemClock()
        self._server: HttpServer | None = None
        self._tasks: Tasks | None = None
        self._admission: Admission | None = None

    @property
    def in_flight(self) -> int:
        """Requests and tasks without an answer."""
        return self._admission.in_flight if self._admission else 0

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Iterator[ValueProblem]:
        if isinstance(folder := values.get("tls"), str):
            try:
                server_tls(Path(folder))
            except ConfigError as error:
                yield ValueProblem(("tls",), str(error))

    def resources_request(self) -> DriverResourcesRequest:
        return DriverResourcesRequest(ports={PORT: self._port})

    def add_routes(self, app: FastAPI) -> None:
        """Add routes of a subclass. Called once, before the first request."""

    async def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        self._tasks = tasks = Tasks(inference, lambda: self._parameters.task_ttl, self._clock)
        types = WorkflowTypes(inference, self._clock)
        hosts = self._hosts(inference)
        self._admission = Admission(inference, lambda: self._parameters.max_in_flight, self._clock)
        algorithms = (
            AlgorithmRoutes(inference.bus, self._clock, self._admission, self._terms, hosts)
            if self._with_algorithms
            else None
        )
        runs = (
            RunRoutes(inference.bus, inference.stream, self._clock, self._admission, self._terms, self._runs)
            if self._runs
            else None
        )
        self._server = server = HttpServer(
            self._app(inference, tasks, types, self._admission, algorithms, runs),
            self._limits,
            tls=self._tls,
            grace_s=GRACE_S,
            on_ready=lambda: resources.announce(PORT, protocol="https" if self._tls else "http"),
        )
        bound = resources.socket(PORT)
        warn_of_openness("HTTP", bound.getsockname()[0], has_tokens=bool(self._tokens), has_tls=bool(self._tls))
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(tasks.run(), name="tasks"),
                group.create_task(types.run(), name="types of the workflow"),
            ]
            if hosts is not None:
                beside.append(group.create_task(hosts.run(), name="HTTP runners"))
            try:
                await server.serve_on(bound)
            finally:
                await tasks.close()
                if algorithms is not None:
                    await algorithms.close()
                if runs is not None:
                    await runs.close()
                for task in beside:
                    task.cancel()

    def stop(self) -> None:
        if self._server is not None and self._tasks is not None:
            self._tasks.stop_waiting()
            self._server.stop()

    def get_parameters(self) -> FastAPIParameters:
        return self._parameters

    def set_parameters(self, parameters: FastAPIParameters) -> None:
        self._parameters = parameters

    def _app(
        self,
        inference: RestrictedInferenceProcess,
        tasks: Tasks,
        types: WorkflowTypes,
        admission: Admission,
        algorithms: AlgorithmRoutes | None,
        runs: RunRoutes | None,
    ) -> Gate:
        has_tokens = self._tokens is not None
        more: list[MoreRoutes] = [] if runs is None else [runs]
        if runs is not None and self._github_secret:
            more.append(GithubRoute(runs, self._github_secret))
        http = HttpApp(
            inference, admission, tasks, types, self._terms, has_tokens=has_tokens, algorithms=algorithms, more=more
        )
        app = http.routes()
        self.add_routes(app)
        return Gate(http.short_way(app), self._tokens, lambda: self._parameters.cors, self._has_own_rules)

    def _has_own_rules(self, method: str, path: str) -> bool:
        """Say whether a route lets in whom it wants: for public files of runs, and for what GitHub has signed."""
        if method == "POST":
            return path == GITHUB_PATH and bool(self._github_secret)
        return method in READING_METHODS and bool(self._runs) and ARTIFACT_PATH.fullmatch(path) is not None

    def _hosts(self, inference: RestrictedInferenceProcess) -> "AlgorithmHosts | None":
        if not self._algorithm_hosts:
            return None
        # Here, since it takes an HTTP client along.
        from runtime.drivers.http.algorithm_hosts import AlgorithmHosts

        return AlgorithmHosts(inference.bus, self._algorithm_hosts, self._clock)

    def _terms(self) -> Terms:
        return Terms(
            max_body=self._parameters.max_body,
            body_s=self._limits.body_s,
            timeout_s=self._parameters.timeout,
            expose_tracebacks=self._parameters.expose_tracebacks,
        )


def _github_secret(variable: str, runs: Sequence[str]) -> str:
    """Return the secret of GitHub's webhooks, "" where there are none. Raises ConfigError."""
    if not variable:
        return ""
    if not runs:
        raise ConfigError("github_secret_env is of use only with runs: name the nodes that webhooks may ask for runs")
    if not (secret := os.environ.get(variable, "")):
        raise ConfigError(f"the variable {variable} holds no secret; set it to the one of the webhook at GitHub")
    return secret

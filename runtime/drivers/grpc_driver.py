"""`GRPCDriver`: workflows as the services of a `.proto` file. The way of one call is in `grpc/call.py`.

proc.add_driver("rpc", GRPCDriver, "api/greeter.proto")
proc.add_driver("rpc", GRPCDriver, "api/all.proto", services={"Greeter": "greeter", "Leave": "goodbye"})
proc.add_driver("rpc", GRPCDriver, "api/greeter.proto", payload="json", token_env="RPC_TOKEN", tls="certs/")
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import grpc
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]  # has no types
from pydantic import BeforeValidator, Field

from runtime.drivers.base import (
    DriverParameters,
    DriverResources,
    DriverResourcesRequest,
    PipelineDriver,
    RestrictedInferenceProcess,
    ValueProblem,
)
from runtime.drivers.durations import read_bytes, read_seconds
from runtime.drivers.grpc.access import TokenCheck, server_credentials
from runtime.drivers.grpc.call import MethodCalls, Terms
from runtime.drivers.grpc.gate import Gate
from runtime.drivers.grpc.health import HEALTH_SERVICE, add_health, health_handler
from runtime.drivers.grpc.routes import Services, read_services, served_methods
from runtime.drivers.grpc.schema import read_schema
from runtime.drivers.inference import Inference, WorkflowView
from runtime.drivers.tls import warn_of_openness
from runtime.drivers.tokens import Tokens
from runtime.errors import DriverStartError
from runtime.spec import names

PORT = "grpc"
DAY_S = 86_400.0
MIB = 1024 * 1024

Seconds = Annotated[float, BeforeValidator(read_seconds), Field(gt=0, le=DAY_S)]


@dataclass
class GRPCParameters(DriverParameters):
    """timeout: of calls without a deadline, and the longest of all, in seconds or with a unit (`30s`).

    max_in_flight: calls to one workflow without an answer.
    """

    timeout: Seconds = 30.0
    max_in_flight: Annotated[int, Field(ge=1)] = 256


class GRPCDriver(PipelineDriver):
    """Serves unary methods, health checks and reflection until stopped."""

    def __init__(
        self,
        proto: str | Path,
        *,
        port: int = 0,
        services: Services | None = None,
        payload: Literal["any", "json"] = "any",
        max_message: int | str = 16 * MIB,
        token_env: str = "",
        tls: str | Path = "",
        parameters: GRPCParameters | None = None,
        find_view: Callable[[str], WorkflowView] | None = None,
    ) -> None:
        """Compile the file, and check everything that can be wrong. Blocks.

        proto: see `grpc.schema.read_schema`. port: where none is configured, 0 for a free one. services: see
        `grpc.routes`. payload: what handlers get, the message itself or JSON. max_message: bytes of a request, or with
        a unit (`16Mi`). token_env: variable with the tokens, see `tokens.Tokens`; without one everybody is let in.
        tls: credentials folder, see `tls.server_tls`.
        find_view: finds the workflow of a name; without it, in the runtime and version of the driver's own.
        Raises DriverStartError with every fault of file and services, ConfigError for token and credentials.
        """
        if payload not in ("any", "json"):
            raise DriverStartError(f'payload is "{payload}"; write any (the message itself) or json')
        self._port = port
        self._schema = read_schema(Path(proto))
        self._methods = served_methods(self._schema.services, read_services(services))
        self._as_json = payload == "json"
        self._max_message = read_bytes(max_message)
        self._tokens = Tokens.read(os.environ.get(token_env, ""), token_env) if token_env else None
        self._tls = server_credentials(Path(tls)) if tls else None
        self._parameters = parameters or GRPCParameters()
        self._find_view = find_view
        self._stopped = asyncio.Event()
        add_health(self._schema.pool)

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Iterable[ValueProblem]:
        try:
            schema = read_schema(Path(values["proto"]))
        except DriverStartError as error:
            return [ValueProblem(("proto",), str(error))]
        try:
            served_methods(schema.services, read_services(values.get("services")))
        except DriverStartError as error:
            return [ValueProblem(("services",), str(error))]
        return []

    def resources_request(self) -> DriverResourcesRequest:
        return DriverResourcesRequest(ports={PORT: self._port})

    async def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        async with AsyncExitStack() as stack:
            # Before the first call: an answer must find a subscription.
            workflows = await self._open_workflows(inference, stack)
            server = self._server(workflows)
            self._listen(server, resources)
            await server.start()
            resources.announce(PORT, protocol="grpcs" if self._tls else "grpc")
            try:
                await self._stopped.wait()
                # No new calls; those that run end by themselves, or with the runtime's stop timeout.
                await server.stop(self._parameters.timeout)
            finally:
                await server.stop(None)

    def stop(self) -> None:
        self._stopped.set()

    def get_parameters(self) -> GRPCParameters:
        return self._parameters

    def set_parameters(self, parameters: GRPCParameters) -> None:
        self._parameters = parameters

    async def _open_workflows(
        self, own: RestrictedInferenceProcess, stack: AsyncExitStack
    ) -> Mapping[str, RestrictedInferenceProcess]:
        """Return every workflow that is served, by the name that the methods have for it."""
        workflows: dict[str, RestrictedInferenceProcess] = {"": own, own.workflow: own}
        for method in self._methods:
            if method.workflow not in workflows:
                view = self._find_view(method.workflow) if self._find_view else _sibling(own, method.workflow)
                opened = Inference(own.bus, view, own.clock, driver=own.driver, stopping=own.stopping)
                workflows[method.workflow] = await stack.enter_async_context(opened)
        return workflows

    def _server(self, workflows: Mapping[str, RestrictedInferenceProcess]) -> grpc.aio.Server:
        server = grpc.aio.server(
            interceptors=[TokenCheck(self._tokens)] if self._tokens else (),
            # Two servers on one port would share its connections, and nobody would be told.
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", self._max_message)],
        )
        gates = {name: Gate(inference) for name, inference in workflows.items()}
        behind: dict[str, list[Gate]] = {"": []}
        handlers: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for method in self._methods:
            gate = gates[method.workflow]
            calls = MethodCalls(method, workflows[method.workflow], gate, self._terms, as_json=self._as_json)
            handlers.setdefault(method.service, {})[method.name] = grpc.unary_unary_rpc_method_handler(calls.answer)
            behind[""].append(gate)
            behind.setdefault(method.service, []).append(gate)
        generic = [grpc.method_handlers_generic_handler(service, each) for service, each in handlers.items()]
        server.add_generic_rpc_handlers((*generic, health_handler(self._schema.pool, behind)))
        shown = (*handlers, HEALTH_SERVICE, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(shown, server, pool=self._schema.pool)
        return server

    def _listen(self, server: grpc.aio.Server, resources: DriverResources) -> None:
        host, port = resources.listen, resources.ports[PORT]
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._tls is not None:
                server.add_secure_port(place, self._tls)
            else:
                server.add_insecure_port(place)
        except RuntimeError as error:
            raise DriverStartError(f"the gRPC server cannot listen on {place}: {error}") from error
        warn_of_openness("gRPC", host, has_tokens=bool(self._tokens), has_tls=bool(self._tls))

    def _terms(self) -> Terms:
        return Terms(timeout_s=self._parameters.timeout, max_in_flight=self._parameters.max_in_flight)


def _sibling(own: RestrictedInferenceProcess, workflow: str) -> WorkflowView:
    return WorkflowView(name=workflow, stream=names.sibling_stream(own.stream, workflow))

"""Which workflow answers which method. Pure: descriptors and the driver's `services` in, methods out.

| `services` | served |
|---|---|
| nothing, one service | all its methods, by the driver's own workflow |
| nothing, the service is called `Entrypoint` | each method by the workflow of its name, as KRE has it |
| `{Greeter: greeter}` | the methods of this service, by this workflow |
| `{Entrypoint: {Greet: greeter, Leave: goodbye}}` | these methods, each by its workflow |
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pydantic
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from runtime.errors import DriverStartError

# Workflow by service, or by method of a service.
Services = Mapping[str, str | Mapping[str, str]]
_SERVICES: pydantic.TypeAdapter[Services] = pydantic.TypeAdapter(dict[str, str | dict[str, str]])

# The service of KRE's manifests, whose methods are named after workflows.
KRE_SERVICE = "Entrypoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method that is served. service: its full name. workflow: "" for the driver's own."""

    service: str
    name: str
    workflow: str
    takes: type[Message]
    returns: type[Message]

    def __str__(self) -> str:
        return f"{self.service}/{self.name}"


def read_services(given: object) -> Services:
    """Return what a workflow file says. Raises DriverStartError unless it has the form of the table."""
    try:
        return _SERVICES.validate_python(given or {}, strict=True)
    except pydantic.ValidationError as error:
        raise DriverStartError(
            f"services is {given!r}; write {{SERVICE: WORKFLOW}}, or {{SERVICE: {{METHOD: WORKFLOW}}}}"
        ) from error


def served_methods(services: Sequence[ServiceDescriptor], wanted: Services) -> list[Method]:
    """Return every method that is to be served.

    Raises DriverStartError with every fault: unknown names, a service without a workflow, streaming methods.
    """
    faults: list[str] = []
    methods = []
    for method, workflow in _routes(services, wanted, faults):
        if method.client_streaming or method.server_streaming:
            faults.append(f"{method.full_name} is a streaming method, and only unary ones can be served; leave it out")
            continue
        methods.append(
            Method(
                service=method.containing_service.full_name,
                name=method.name,
                workflow=workflow,
                takes=message_factory.GetMessageClass(method.input_type),
                returns=message_factory.GetMessageClass(method.output_type),
            )
        )
    if faults:
        raise DriverStartError("; ".join(faults))
    return methods


def _routes(
    services: Sequence[ServiceDescriptor], wanted: Services, faults: list[str]
) -> Iterator[tuple[MethodDescriptor, str]]:
    """Yield each method with its workflow; what is wrong goes into `faults`."""
    if not wanted:
        yield from _unasked(services, faults)
        return
    for name, given in wanted.items():
        service = next((each for each in services if name in (each.name, each.full_name)), None)
        if service is None:
            faults.append(f'there is no service "{name}"; there are: {_names(services)}')
        elif isinstance(given, str):
            yield from ((method, given) for method in service.methods)
        else:
            yield from _picked(service, given, faults)


def _unasked(services: Sequence[ServiceDescriptor], faults: list[str]) -> Iterator[tuple[MethodDescriptor, str]]:
    if len(services) > 1:
        remedy = "say which workflows answer them: services: {NAME: WORKFLOW}"
        faults.append(f"there are the services {_names(services)}; {remedy}")
        return
    for method in services[0].methods:
        yield method, method.name if services[0].name == KRE_SERVICE else ""


def _picked(
    service: ServiceDescriptor, given: Mapping[str, str], faults: list[str]
) -> Iterator[tuple[MethodDescriptor, str]]:
    for name, workflow in given.items():
        if name in service.methods_by_name:
            yield service.methods_by_name[name], workflow
        else:
            faults.append(f'service {service.name} has no method "{name}"; it has: {_names(service.methods)}')


def _names(described: "Sequence[ServiceDescriptor] | Sequence[MethodDescriptor]") -> str:
    return ", ".join(each.name for each in described)

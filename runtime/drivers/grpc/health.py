"""`grpc.health.v1.Health`: whether a service can be used now, for probes and load balancers.

`Check` looks at the workflows behind the services. `Watch` is left out, which the protocol allows: clients then take
the server for healthy (https://github.com/grpc/grpc/blob/master/doc/health-checking.md).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from runtime.drivers.grpc.gate import Gate

HEALTH_SERVICE = "grpc.health.v1.Health"
HEALTH_FILE = "grpc/health/v1/health.proto"
SERVING, NOT_SERVING = 1, 2

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = ".grpc.health.v1"


def add_health(pool: descriptor_pool.DescriptorPool) -> None:
    """Add the protocol's file to a pool, which reflection shows; a pool that has it already keeps its own."""
    try:
        pool.FindFileByName(HEALTH_FILE)
    except KeyError:
        pool.Add(_file())


def health_handler(pool: descriptor_pool.DescriptorPool, gates: Mapping[str, Sequence[Gate]]) -> grpc.GenericRpcHandler:
    """Return the service. gates: of the workflows behind each service, by its full name; "" is all of them."""
    ask, answer = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"grpc.health.v1.HealthCheck{name}"))
        for name in ("Request", "Response")
    )

    async def check(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        if request.service not in gates:
            known = ", ".join(name for name in gates if name)
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f'there is no service "{request.service}"; there are: {known}'
            )
        faults = [await gate.fault() for gate in gates[request.service]]
        return answer(status=NOT_SERVING if any(faults) else SERVING)

    method = grpc.unary_unary_rpc_method_handler(
        check, request_deserializer=ask.FromString, response_serializer=answer.SerializeToString
    )
    return grpc.method_handlers_generic_handler(HEALTH_SERVICE, {"Check": method})


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=HEALTH_FILE, package="grpc.health.v1", syntax="proto3")
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    response = file.message_type.add(name="HealthCheckResponse")
    statuses = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        statuses.value.add(name=name, number=number)
    response.field.add(
        name="status",
        number=1,
        type=_Field.TYPE_ENUM,
        label=_Field.LABEL_OPTIONAL,
        type_name=f"{_PACKAGE}.HealthCheckResponse.ServingStatus",
    )
    service = file.service.add(name="Health")
    service.method.add(
        name="Check", input_type=f"{_PACKAGE}.HealthCheckRequest", output_type=f"{_PACKAGE}.HealthCheckResponse"
    )
    return file

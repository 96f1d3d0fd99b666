"""A caller over gRPC that knows nothing but an address: the server tells its types."""

from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]  # has no types

# Seconds after which a call that has to end is taken for lost.
PATIENCE_S = 10.0


async def ask(channel: grpc.aio.Channel, **wanted: str) -> Any:
    """Return what the server tells of itself."""
    method = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    async for answer in method(iter([reflection_pb2.ServerReflectionRequest(**wanted)]), timeout=PATIENCE_S):
        return answer
    raise AssertionError("the server tells nothing of itself")


async def call(channel: grpc.aio.Channel, service: str, method: str, request: dict[str, Any]) -> Any:
    """Call a method as grpcurl does: JSON in and out, and the types from the server."""
    told = await ask(channel, file_containing_symbol=service)
    pool = descriptor_pool.DescriptorPool()
    for data in told.file_descriptor_response.file_descriptor_proto:
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
    described = pool.FindServiceByName(service).methods_by_name[method]
    takes, returns = (message_factory.GetMessageClass(each) for each in (described.input_type, described.output_type))
    stub: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{service}/{method}")
    answer = await stub(json_format.ParseDict(request, takes()).SerializeToString(), timeout=PATIENCE_S)
    return json_format.MessageToDict(returns.FromString(answer))

"""A client of the gRPC driver, which knows the messages from the `.proto` file alone, and a file to serve.

    client = RpcClient(write_proto(tmp_path), port)
    answer = await client.call("Say", text="hi")

With `payload: json` the fields of `Ask` are what `answering_node` acts on: they have presence, so only those that are
set reach it.
"""

from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory

from runtime.drivers.grpc.schema import read_schema

# Seconds after which a call that has to end is taken for lost.
PATIENCE_S = 10.0

PROTO = """
syntax = "proto3";
package echo.v1;
import "google/protobuf/empty.proto";

message Ask {
  optional string text = 1;
  optional string error = 2;
  optional bool silent = 3;
  optional bool nothing = 4;
  optional int64 number = 5;
}
message Told { string text = 1; }

service Echo {
  rpc Say(Ask) returns (Ask);
  rpc Tell(Ask) returns (Told);
  rpc Clear(Ask) returns (google.protobuf.Empty);
}
"""


def write_proto(folder: Path, text: str = PROTO, name: str = "echo.proto") -> Path:
    path = folder / name
    path.write_text(text)
    return path


class RpcClient:
    """Calls the methods of one file's services by their names. To be used with `async with`."""

    def __init__(self, proto: Path, port: int, *, credentials: grpc.ChannelCredentials | None = None) -> None:
        target = f"127.0.0.1:{port}"
        # A restarted server is tried again at once, and a response may be as large as the server likes.
        options = [("grpc.max_reconnect_backoff_ms", 100), ("grpc.max_receive_message_length", -1)]
        self.channel = (
            grpc.aio.secure_channel(target, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(target, options)
        )
        self._methods = {
            method.name: (f"/{service.full_name}/{method.name}", method)
            for service in read_schema(proto).services
            for method in service.methods
        }

    async def __aenter__(self) -> "RpcClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    def start(
        self,
        method: str,
        /,
        *,
        timeout: float | None = PATIENCE_S,
        metadata: tuple[tuple[str, str | bytes], ...] = (),
        **fields: Any,
    ) -> "grpc.aio.UnaryUnaryCall[Any, Any]":
        """Begin a call."""
        path, described = self._methods[method]
        takes = message_factory.GetMessageClass(described.input_type)
        returns = message_factory.GetMessageClass(described.output_type)
        call = self.channel.unary_unary(
            path, request_serializer=takes.SerializeToString, response_deserializer=returns.FromString
        )
        return call(takes(**fields), timeout=timeout, metadata=metadata)

    async def call(self, method: str, /, **options: Any) -> Any:
        """Return the answer of a call. Raises grpc.aio.AioRpcError."""
        return await self.start(method, **options)

    async def failure(self, method: str, /, **options: Any) -> "Failure":
        """Return how a call fails that has to."""
        try:
            answer = await self.start(method, **options)
        except grpc.aio.AioRpcError as error:
            return Failure(error)
        raise AssertionError(f"{method} has answered {answer!r}")

    async def send(self, path: str, data: bytes) -> bytes:
        """Call a method with these very bytes."""
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path)
        return await method(data, timeout=PATIENCE_S)


class Failure:
    """How a call has failed."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.detail = error.details() or ""
        self.trailing = dict(error.trailing_metadata() or ())

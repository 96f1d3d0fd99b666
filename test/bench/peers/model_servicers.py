"""Many gRPC servers in one process, each with one model, as a model runner has it.

python -m test.bench.peers.model_servicers '{"code": …, "paces": {"21000": 0.5}, "ready_fd": 5}'
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from runtime.models.values import plain_arguments, to_variant
from runtime.models.wire import StatusCode
from runtime.proto.models import CallRequest, CallResponse, Status

SERVICE, METHOD = "bench.Model", "Call"


def serve(code: str, paces: dict[str, float], ready_fd: int) -> None:
    """Keep a server on each port of `paces`, whose model has this pace, until SIGTERM."""
    sys.path.insert(0, code)
    from model import Model  # type: ignore[import-not-found]  # in the folder of the measured model

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    servers = [start(int(port), Model(pace)) for port, pace in paces.items()]
    os.write(ready_fd, b"ready\n")
    ended.wait()
    for server in servers:
        server.stop(None).wait()


def start(port: int, model: Any) -> Any:
    """Start a server with one model, and one thread for its calls."""
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    handler = grpc.unary_unary_rpc_method_handler(
        answering(model),
        request_deserializer=CallRequest.FromString,
        response_serializer=CallResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server


def answering(model: Any) -> Callable[[Any, Any], Any]:
    def answer(call: Any, _: Any) -> Any:
        args, kwargs = plain_arguments(call.methodArguments, call.methodKwArguments)
        result = getattr(model, call.methodName)(*args, **kwargs)
        return CallResponse(status=Status(code=StatusCode.SUCCESS), methodResponse=to_variant(result))

    return answer


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]))

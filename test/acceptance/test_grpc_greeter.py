"""`workflows/greeter` over gRPC as a stranger uses it: with nothing but its address."""

import re
from pathlib import Path

import grpc
import pytest

from test.support.rpc_reflection import ask, call
from test.support.run_process import RunProcess

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("nats_server_binary")
async def test_the_greeter_tells_its_services_and_greets(tmp_path: Path) -> None:
    run = await RunProcess.start(tmp_path, str(ROOT / "workflows" / "greeter"))
    try:
        address = re.search(r"grpc://(\S+)", await run.wait_for("rpc: grpc://"))
        assert address is not None
        async with grpc.aio.insecure_channel(address[1]) as channel:
            listed = await ask(channel, list_services="")
            answer = await call(channel, "greeter.Greeter", "Greet", {"name": "Ada", "language": "fr"})
    finally:
        status = await run.stop()

    assert "greeter.Greeter" in [service.name for service in listed.list_services_response.service]
    assert answer == {"greeting": "Bonjour, Ada !"}
    assert status == 0

"""The ports of a driver: bound before it runs, its own until it has stopped, and never another one than configured."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.drivers.base import DriverResourcesRequest, DriverState
from runtime.drivers.resources import Resources, owner_of
from runtime.drivers.runner import DriverTerms
from runtime.errors import DriverStartError
from test.support.drivers import hosted
from test.support.sample_drivers import Waits

LOOPBACK = "127.0.0.1"
# The first port that the kernel lets every user bind; 0 in most containers.
FIRST_OF_EVERYBODY = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
NOBODY = 65_534


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """Be nobody inside the block where we are root, who may bind every port."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def bind(*ports: str, **configured: int) -> Resources:
    request = DriverResourcesRequest(ports=ports)
    return Resources.bind(request, configured, listen=LOOPBACK, address=LOOPBACK, on_change=lambda: None)


def can_connect(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


async def test_every_port_gets_a_number_and_listens_only_when_it_is_asked_for() -> None:
    resources = bind("http", "metrics")

    before = can_connect(resources.ports["http"])
    resources.socket("http")
    after = can_connect(resources.ports["http"])
    resources.close()

    assert set(resources.ports) == {"http", "metrics"}
    assert (before, after, can_connect(resources.ports["http"])) == (False, True, False)


async def test_a_server_that_opens_the_port_by_its_number_gets_it() -> None:
    resources = bind("grpc")

    server = await asyncio.start_server(lambda reader, writer: writer.close(), LOOPBACK, resources.ports["grpc"])
    async with server:
        assert can_connect(resources.ports["grpc"])
    resources.close()


async def test_a_configured_port_that_is_taken_is_an_error_that_names_it_and_its_owner(taken: int) -> None:
    with pytest.raises(DriverStartError, match=f'port {taken} of "http" on {LOOPBACK} is taken') as caught:
        bind("http", http=taken)

    assert f"by process {os.getpid()} (" in str(caught.value)
    assert owner_of(taken) in str(caught.value)


async def test_nobody_owns_a_free_port() -> None:
    resources = bind("http")

    assert owner_of(resources.ports["http"]) == ""
    resources.close()


async def test_a_port_that_the_driver_does_not_ask_for_is_refused() -> None:
    with pytest.raises(DriverStartError, match="asks for no port https; it asks for: http"):
        bind("http", https=8443)


@pytest.mark.skipif(FIRST_OF_EVERYBODY == 0, reason="this kernel permits every port to everybody")
async def test_a_port_that_is_not_permitted_is_an_error_that_names_it() -> None:
    forbidden = FIRST_OF_EVERYBODY - 1

    with (
        without_rights(),
        pytest.raises(
            DriverStartError, match=f'port {forbidden} of "http" on {LOOPBACK} is not permitted to this user'
        ),
    ):
        bind("http", http=forbidden)


async def test_ports_that_were_bound_are_freed_when_another_one_is_taken(taken: int) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        free = server.getsockname()[1]

    with pytest.raises(DriverStartError):
        bind("first", "second", first=free, second=taken)

    socket.create_server((LOOPBACK, free)).close()


async def test_a_driver_whose_port_is_taken_has_failed_and_says_so_without_a_traceback(
    taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DriverStartError, match=f'port {taken} of "echo"'):
        async with hosted(Waits, terms=DriverTerms(ports={"echo": taken})):
            pass

    [told] = [record for record in caplog.records if getattr(record, "action", "") == "driver-failed"]
    assert f'port {taken} of "echo"' in told.getMessage()
    assert told.exc_info is None


async def test_a_stopped_driver_has_freed_its_port() -> None:
    async with hosted(Waits) as driver:
        port = driver.ports["echo"]

    assert driver.state is DriverState.STOPPED
    socket.create_server((LOOPBACK, port)).close()


async def test_services_are_those_that_were_announced_and_not_withdrawn() -> None:
    changes: list[int] = []
    request = DriverResourcesRequest(ports=("http", "grpc"))
    resources = Resources.bind(
        request, {}, listen=LOOPBACK, address="example.net", on_change=lambda: changes.append(len(resources.services))
    )

    resources.announce("http", protocol="http")
    await asyncio.to_thread(resources.announce, "grpc")
    await asyncio.sleep(0)
    both = [service.describe() for service in resources.services]
    resources.withdraw("grpc")
    resources.withdraw("grpc")
    await asyncio.sleep(0)
    resources.close()
    await asyncio.sleep(0)

    place = {"address": "example.net", "port": resources.ports["http"]}
    assert both[0] == {"name": "http", "protocol": "http", **place, "taggedAddresses": {"lan": place, "wan": place}}
    assert [each["name"] for each in both] == ["http", "grpc"]
    assert changes[-1] == 0 and len(changes) == 4

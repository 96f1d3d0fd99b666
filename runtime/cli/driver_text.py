"""Drivers as text, for the lists that people read."""

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.drivers.control import DriverRecord

# Protocols whose addresses people use as they are.
URL_PROTOCOLS = ("http", "https", "grpc", "grpcs")


def service_url(service: Mapping[str, Any]) -> str:
    """Return where a service is reached: `http://127.0.0.1:8080`, or `NAME at HOST:PORT`."""
    place = f"{service['address']}:{service['port']}"
    if service["protocol"] in URL_PROTOCOLS:
        return f"{service['protocol']}://{place}"
    return f"{service['name']} at {place}"


def driver_lines(records: Sequence[DriverRecord]) -> list[str]:
    """Return one line for each driver, in columns: ref, pid, class, state, then services or why it failed."""
    rows = [(record.ref, record.pid, record.driver, record.state, _rest(record)) for record in records]
    widths = [max(len(row[column]) for row in rows) for column in range(4)] if rows else []
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in rows
    ]


def driver_fields(record: DriverRecord) -> dict[str, Any]:
    """Return what is told of a driver in JSON."""
    return {
        "ref": record.ref,
        "pid": record.pid,
        "class": record.driver,
        "state": record.state,
        "reason": record.reason,
        "restarts": record.restarts,
        "services": record.services,
        "host": record.host,
        "os_pid": record.os_pid,
        "counters": dict(record.counters),
    }


def _rest(record: DriverRecord) -> str:
    parts = [service_url(service) for service in record.services]
    if record.restarts:
        parts.append(f"made anew {record.restarts} times")
    parts += [f"{name} {value:,}" for name, value in record.counters.items()]
    return ", ".join([*parts, *([record.reason] if record.reason else [])])

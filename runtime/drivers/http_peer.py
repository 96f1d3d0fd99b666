"""The HTTP server that a source asks or a sink sends to: how it is called, and what its answers mean."""

import httpx
from pydantic import SecretStr

from runtime.drivers.flow import NotConnected
from runtime.durations import retry_after_s
from runtime.errors import DriverError

# Statuses of a server that is busy, starting, or behind a proxy that does not reach it.
PASSING = frozenset({408, 425, 429, 502, 503, 504})


def place_of(url: SecretStr) -> str:
    """Return the server of a URL, without what may be secret."""
    parsed = httpx.URL(url.get_secret_value())
    return f"{parsed.scheme}://{parsed.host}{f':{parsed.port}' if parsed.port else ''}"


def bearer(token: SecretStr) -> dict[str, str]:
    """Return the headers that show a token, none without one."""
    return {"Authorization": f"Bearer {token.get_secret_value()}"} if token.get_secret_value() else {}


def no_answer(url: SecretStr, error: httpx.TransportError) -> NotConnected:
    return NotConnected(f"{place_of(url)} gives no answer ({type(error).__name__})")


def check_status(url: SecretStr, answer: httpx.Response) -> None:
    """Raise NotConnected for a status that passes by itself, with the time to wait; DriverError for another failure."""
    if answer.status_code in PASSING:
        asked_s = retry_after_s(answer.headers.get("Retry-After"))
        raise NotConnected(f"{place_of(url)} answers {answer.status_code}", retry_after_s=asked_s)
    if not answer.is_success:
        raise DriverError(f"{place_of(url)} answers {answer.status_code}")

"""The source that polls a server: what is an input, what is waited out, and what fails the driver."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from runtime.drivers.flow import Item, NotConnected
from runtime.drivers.sources.http_poll import HttpPollSource
from runtime.errors import DriverError

URL = "http://sensors.example/secret-path"


def polling(answers: Iterator[httpx.Response] | list[httpx.Response], **parameters: Any) -> HttpPollSource:
    """Return a source that is open on a server with these answers."""
    source, given = HttpPollSource(url=URL, interval="1s", **parameters), iter(answers)
    source._client = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: next(given)))
    return source


async def polled(source: HttpPollSource, times: int) -> list[Item | None]:
    items = [await source._poll() for _ in range(times)]
    await source.close()
    return items


async def test_an_empty_answer_is_no_input_and_one_that_cannot_be_read_is_a_fault() -> None:
    source = polling([httpx.Response(204), httpx.Response(200, json={"n": 1}), httpx.Response(200, content=b"{")])

    empty, good, bad = await polled(source, 3)

    assert empty is None
    assert good is not None and good.inputs == {"n": 1}
    assert bad is not None and "is not JSON" in bad.fault


async def test_an_answer_like_the_one_before_is_left_out_where_only_changes_are_wanted() -> None:
    answers = [httpx.Response(200, json=number) for number in (1, 1, 2, 1)]

    items = await polled(polling(answers, changes=True), 4)

    assert [item and item.inputs for item in items] == [1, None, 2, 1]


async def test_a_server_with_etags_is_asked_for_changes_only() -> None:
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("If-None-Match"))
        return httpx.Response(304) if len(asked) == 2 else httpx.Response(200, json=len(asked), headers={"ETag": '"a"'})

    source = HttpPollSource(url=URL, interval="1s")
    source._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    items = await polled(source, 3)

    assert (asked, [item and item.inputs for item in items]) == ([None, '"a"', '"a"'], [1, None, 3])


async def test_an_answer_that_is_too_large_is_a_fault_and_not_kept() -> None:
    [item] = await polled(polling([httpx.Response(200, content=b"1" * 101)], max_body=100), 1)

    assert item is not None and item.fault == "an answer is larger than 100 bytes"


@pytest.mark.parametrize(("status", "error"), [(503, NotConnected), (429, NotConnected), (404, DriverError)])
async def test_a_busy_server_is_waited_for_and_another_error_fails(status: int, error: type[DriverError]) -> None:
    source = polling([httpx.Response(status, headers={"Retry-After": "7"})])

    with pytest.raises(error, match=rf"^http://sensors.example answers {status}$") as caught:
        await polled(source, 1)
    await source.close()

    assert getattr(caught.value, "retry_after_s", 7) == 7
    assert (type(caught.value) is NotConnected) == (error is NotConnected)

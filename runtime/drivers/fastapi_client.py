"""`FastAPIClient`: calls a workflow that `FastAPIDriver` serves, from plain code and from coroutines.

    client = FastAPIClient(process=driver)                  # a driver's handle; or host=, port=
    client.wait()
    client.predict({"name": "Ada"}, state_id="cam-1", timeout=5)
    task_id = client.predict_task({"name": "Ada"})
    client.task_result(task_id, timeout=30)

    await client.apredict({"name": "Ada"})                  # every call has a form for coroutines, with the prefix `a`

Whatever goes wrong, a refused connection included, is a `FastAPIClientError`.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, cast

import httpx

from runtime.drivers.http import calls
from runtime.drivers.http.calls import CONNECT_S, DEFAULT_TIMEOUT_S
from runtime.drivers.http.calls import FastAPIClientError as FastAPIClientError

T = TypeVar("T")

# Name of the driver's service.
SERVICE = "http"


class DriverHandle(Protocol):
    """What the client needs of a driver's handle."""

    def list_services(self) -> Sequence[Mapping[str, Any]]: ...


class FastAPIClient:
    """See the module. Thread-safe; `close` or `aclose` it, or use it with `with` or `async with`."""

    def __init__(
        self,
        *,
        process: DriverHandle | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        ca: str | Path = "",
        certificate: tuple[str | Path, str | Path] | None = None,
    ) -> None:
        """process: a driver's handle, whose address is looked up, again after a refused connection. token: a bearer's.

        ca: file with what signs the driver's certificate, which a handle's https needs, too. certificate: files of
        one's own certificate and key.
        """
        if process is None and not port:
            raise ValueError("give the driver's handle as process=, or its host= and port=")
        self._process = process
        self._address = f"{'https' if ca else 'http'}://{_in_url(host)}:{port}" if port else ""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._options: dict[str, Any] = {"headers": headers, "verify": _trusted(ca, certificate) if ca else True}
        self._client: httpx.Client | None = None
        self._async_client: httpx.AsyncClient | None = None

    # --- for plain code ---

    def wait(self, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Return when the driver answers. Raises FastAPIClientError after `timeout` seconds."""
        self._run(calls.wait(timeout))

    def predict(self, inputs: Any, state_id: str | None = None, timeout: float | None = None) -> Any:
        """Send inputs and return the first output. timeout: seconds for the answer; by default the driver's.

        inputs: what JSON has, bytes, a File, a numpy array or an Arrow table. The output is None where there is none,
        a File for a file, bytes for anything else that is no JSON; arrays are lists and tables are rows.
        """
        return self._run(calls.predict(inputs, state_id, timeout))

    def predict_all(self, inputs: Any, state_id: str | None = None, timeout: float | None = None) -> Iterator[Any]:
        """Send inputs and yield every output as it comes; bytes are {"base64": text}."""
        request = calls.sending("/predict", inputs, state_id, timeout, accept=calls.EVENT_STREAM)
        events = calls.Events()
        with _failures(), self._opened().stream(**self._arguments(request)) as response:
            if not response.is_success:
                response.read()
                raise calls.error_of(response)
            for line in response.iter_lines():
                yield from events.outputs(line)
        events.check_end()

    def predict_task(self, inputs: Any, state_id: str | None = None, timeout: float | None = None) -> str:
        """Send inputs and return the id of the task, which is certain to be worked on then."""
        return self._run(calls.predict_task(inputs, state_id, timeout))

    def task_result(self, task_id: str, timeout: float = DEFAULT_TIMEOUT_S) -> Any:
        """Return the output of a task. Raises FastAPIClientError: `timeout` if it has not ended after `timeout` s."""
        return self._run(calls.task_result(task_id, timeout))

    def cancel_task(self, task_id: str) -> None:
        """Cancel a task. Raises FastAPIClientError: `unknown`, or `cancelled` when it had ended before."""
        self._run(calls.cancel_task(task_id))

    def schema(self) -> dict[str, Any]:
        """Return `workflow`, and the JSON Schemas `inputs` and `outputs`."""
        return self._run(calls.schema())

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- for coroutines ---

    async def await_ready(self, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """See `wait`."""
        await self._arun(calls.wait(timeout))

    async def apredict(self, inputs: Any, state_id: str | None = None, timeout: float | None = None) -> Any:
        return await self._arun(calls.predict(inputs, state_id, timeout))

    async def apredict_all(
        self, inputs: Any, state_id: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[Any]:
        request = calls.sending("/predict", inputs, state_id, timeout, accept=calls.EVENT_STREAM)
        events = calls.Events()
        with _failures():
            async with self._aopened().stream(**self._arguments(request)) as response:
                if not response.is_success:
                    await response.aread()
                    raise calls.error_of(response)
                async for line in response.aiter_lines():
                    for output in events.outputs(line):
                        yield output
        events.check_end()

    async def apredict_task(self, inputs: Any, state_id: str | None = None, timeout: float | None = None) -> str:
        return await self._arun(calls.predict_task(inputs, state_id, timeout))

    async def atask_result(self, task_id: str, timeout: float = DEFAULT_TIMEOUT_S) -> Any:
        return await self._arun(calls.task_result(task_id, timeout))

    async def acancel_task(self, task_id: str) -> None:
        await self._arun(calls.cancel_task(task_id))

    async def aschema(self) -> dict[str, Any]:
        return await self._arun(calls.schema())

    async def aclose(self) -> None:
        if self._async_client is not None:
            await self._async_client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- the two ways to do what a call yields ---

    def _run(self, call: calls.Call[T]) -> T:
        done: httpx.Response | FastAPIClientError | None = None
        while True:
            try:
                step = calls.next_step(call, done)
            except StopIteration as end:
                return cast(T, end.value)
            if isinstance(step, calls.Pause):
                time.sleep(step.seconds)
                done = None
                continue
            try:
                done = self._exchange(step)
            except FastAPIClientError as error:
                done = error

    def _exchange(self, request: calls.Request) -> httpx.Response:
        with _failures():
            try:
                response = self._opened().request(**self._arguments(request))
            except httpx.ConnectError:  # nothing was sent, so that sending it again is safe
                if not self._is_elsewhere():
                    raise
                response = self._opened().request(**self._arguments(request))
        return calls.checked(response)

    async def _arun(self, call: calls.Call[T]) -> T:
        done: httpx.Response | FastAPIClientError | None = None
        while True:
            try:
                step = calls.next_step(call, done)
            except StopIteration as end:
                return cast(T, end.value)
            if isinstance(step, calls.Pause):
                await asyncio.sleep(step.seconds)
                done = None
                continue
            try:
                done = await self._aexchange(step)
            except FastAPIClientError as error:
                done = error

    async def _aexchange(self, request: calls.Request) -> httpx.Response:
        with _failures():
            try:
                response = await self._aopened().request(**self._arguments(request))
            except httpx.ConnectError:
                if not self._is_elsewhere():
                    raise
                response = await self._aopened().request(**self._arguments(request))
        return calls.checked(response)

    def _opened(self) -> httpx.Client:
        if self._client is None:
            self._client = httpx.Client(**self._options)
        return self._client

    def _aopened(self) -> httpx.AsyncClient:
        if self._async_client is None:
            self._async_client = httpx.AsyncClient(**self._options)
        return self._async_client

    def _arguments(self, request: calls.Request) -> dict[str, Any]:
        if not self._address:
            self._address = self._look_up()
        return {
            "method": request.method,
            "url": self._address + request.path,
            "content": request.content,
            "headers": request.headers,
            "timeout": httpx.Timeout(request.timeout_s, connect=CONNECT_S),
        }

    def _is_elsewhere(self) -> bool:
        """Look the driver's address up again, and say whether it has another one now."""
        before, self._address = self._address, self._look_up() if self._process else self._address
        return self._address != before

    def _look_up(self) -> str:
        """Return where the driver of the handle is. Raises FastAPIClientError when it offers no service."""
        services = self._process.list_services() if self._process else ()
        for service in services:
            if service["name"] == SERVICE:
                place = service["taggedAddresses"]["wan"]
                return f"{service['protocol']}://{_in_url(place['address'])}:{place['port']}"
        raise FastAPIClientError(0, "unavailable", f'the driver offers no service "{SERVICE}" now')


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _trusted(ca: str | Path, certificate: tuple[str | Path, str | Path] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Turn what httpx raises into a FastAPIClientError."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise FastAPIClientError(0, "timeout", f"the driver did not answer in time ({type(error).__name__})") from error
    except httpx.HTTPError as error:
        raise FastAPIClientError(0, "unavailable", f"the driver cannot be reached: {error}") from error

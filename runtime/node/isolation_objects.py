"""`ctx.object_store` of a handler in a worker process, as its node does it: whole objects, and objects in chunks."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from runtime.errors import ContextError
from runtime.node.context import Services
from runtime.node.isolation_frames import DONE, Body, Call, CallAnswer, Head


class ObjectDesk:
    """The objects that one worker reads and writes. A stream belongs to the number under which it was opened."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Services, Head, Body], Awaitable[CallAnswer]]] = {
            Call.OBJECT_SAVE: self._save,
            Call.OBJECT_GET: self._get,
            Call.OBJECT_DELETE: self._delete,
            Call.OBJECT_LIST: self._list,
            Call.READ_OPEN: self._open_to_read,
            Call.READ_NEXT: self._read,
            Call.READ_CLOSE: self._close_reading,
            Call.WRITE_OPEN: self._open_to_write,
            Call.WRITE_NEXT: self._write,
            Call.WRITE_CLOSE: self._close_writing,
        }
        self._numbers = itertools.count(1)
        self._reading: dict[int, AsyncIterator[bytes]] = {}
        self._writing: dict[int, _Upload] = {}

    async def close(self) -> None:
        """Give up every stream that is open; what was being written is not stored."""
        for upload in self._writing.values():
            await upload.give_up()
        self._writing.clear()
        self._reading.clear()

    async def _save(self, services: Services, head: Head, body: Body) -> CallAnswer:
        await services.object_store.save(head["key"], bytes(body))
        return DONE

    async def _get(self, services: Services, head: Head, body: Body) -> CallAnswer:
        return None, await services.object_store.get(head["key"])

    async def _delete(self, services: Services, head: Head, body: Body) -> CallAnswer:
        await services.object_store.delete(head["key"])
        return DONE

    async def _list(self, services: Services, head: Head, body: Body) -> CallAnswer:
        return await services.object_store.list(head["regexp"]), b""

    async def _open_to_read(self, services: Services, head: Head, body: Body) -> CallAnswer:
        number = next(self._numbers)
        self._reading[number] = services.object_store.get_stream(head["key"])
        return number, b""

    async def _read(self, services: Services, head: Head, body: Body) -> CallAnswer:
        """CallAnswer with the next chunk; the value says whether there was one."""
        async for chunk in _of(self._reading, head["stream"]):
            return True, chunk
        self._reading.pop(head["stream"], None)
        return False, b""

    async def _close_reading(self, services: Services, head: Head, body: Body) -> CallAnswer:
        self._reading.pop(head["stream"], None)
        return DONE

    async def _open_to_write(self, services: Services, head: Head, body: Body) -> CallAnswer:
        number = next(self._numbers)
        self._writing[number] = _Upload(services, head["key"])
        return number, b""

    async def _write(self, services: Services, head: Head, body: Body) -> CallAnswer:
        await _of(self._writing, head["stream"]).write(bytes(body))
        return DONE

    async def _close_writing(self, services: Services, head: Head, body: Body) -> CallAnswer:
        upload = self._writing.pop(head["stream"])
        await (upload.finish() if head["whole"] else upload.give_up())
        return DONE


class _Upload:
    """An object that is written chunk by chunk; its store asks for the next one when it has room."""

    def __init__(self, services: Services, key: str) -> None:
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        storing = services.object_store.save_stream(key, self._chunks_to_store())
        self._storing = asyncio.create_task(storing, name=f"object {key}")

    async def write(self, chunk: bytes) -> None:
        """Return once there is room for another chunk. Raises what storing raises."""
        await self._put(chunk)

    async def finish(self) -> None:
        """Return once the object is there as a whole."""
        await self._put(None)
        await self._storing

    async def give_up(self) -> None:
        self._storing.cancel()
        await asyncio.gather(self._storing, return_exceptions=True)

    async def _put(self, chunk: bytes | None) -> None:
        putting = asyncio.ensure_future(self._chunks.put(chunk))
        await asyncio.wait((putting, self._storing), return_when=asyncio.FIRST_COMPLETED)
        if not putting.done():  # storing has failed: nobody takes a chunk any more
            putting.cancel()
            await self._storing

    async def _chunks_to_store(self) -> AsyncIterator[bytes]:
        while (chunk := await self._chunks.get()) is not None:
            yield chunk


def _of(streams: dict[int, Any], number: int) -> Any:
    with contextlib.suppress(KeyError):
        return streams[number]
    raise ContextError("this stream of an object is closed")

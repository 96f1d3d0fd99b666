"""A stand-in for MongoDB on a real socket. It is not MongoDB: it knows the few commands that the document store sends.

It speaks OP_MSG (and OP_QUERY, with which drivers begin) and presents itself as the primary of a replica set of one, so
that drivers repeat writes as they do there. Documents live in memory, and searches are answered by the product's own
`compile_query`: it shows how the store behaves towards a server and its faults, not what MongoDB's operators do.
"""

import itertools
import socket
import socketserver
import struct
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import bson
from bson.int64 import Int64
from bson.objectid import ObjectId

from runtime.stores.query import compile_query

Reply = dict[str, Any]

_HEADER = struct.Struct("<iiii")  # length, request id, id of the answered request, opcode
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
# Documents of the first part of a search, as MongoDB has it.
_FIRST_BATCH = 101
# Sent by drivers on their own account.
_UNRECORDED = frozenset({"hello", "ismaster", "isMaster", "endSessions", "killCursors"})


@dataclass(slots=True)
class Fault:
    """What goes wrong with the next commands of one name: an answer in its place, a cut reply, or a late one."""

    command: str
    times: int
    reply: Reply | None = None
    cut: bool = False
    arrived: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class MongoStandin:
    """The state of the stand-in: its documents, what was asked of it, and the faults to come. Thread-safe."""

    def __init__(self) -> None:
        self.address = ""
        self.connections = 0
        self.commands: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._collections = defaultdict[tuple[str, str], dict[Any, dict[str, Any]]](dict)
        self._cursors: dict[int, list[dict[str, Any]]] = {}
        self._cursor_ids = itertools.count(1)

    @property
    def uri(self) -> str:
        return f"mongodb://{self.address}/"

    def answer(self, command: str, reply: Reply, *, times: int = 1) -> None:
        """Answer the next commands of this name with `reply`, and do nothing."""
        self._add(Fault(command, times, reply=reply))

    def cut(self, command: str, *, times: int = 1) -> None:
        """Do the next commands of this name, send half of the reply, and close the connection."""
        self._add(Fault(command, times, cut=True))

    def hold(self, command: str) -> Fault:
        """Do the next command of this name, and reply only when the fault is `released`, or at the end."""
        fault = Fault(command, 1)
        self._add(fault)
        return fault

    def named(self, command: str) -> list[dict[str, Any]]:
        """Return the commands of one name that have arrived."""
        with self._lock:
            return [document for document in self.commands if command in document]

    def release_all(self) -> None:
        for fault in self._faults:
            fault.released.set()

    def respond(self, command: dict[str, Any]) -> tuple[Reply, bool]:
        """Do one command; returns its reply, and whether only half of it may be sent."""
        name = next(iter(command))
        with self._lock:
            if name not in _UNRECORDED:
                self.commands.append(command)
            fault = self._next_fault(name)
            reply = fault.reply if fault and fault.reply is not None else self._do(name, command)
        if fault and fault.reply is None and not fault.cut:
            fault.arrived.set()
            fault.released.wait()
        return reply, bool(fault and fault.cut)

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _next_fault(self, name: str) -> Fault | None:
        fault = next((fault for fault in self._faults if fault.command == name and fault.times), None)
        if fault is not None:
            fault.times -= 1
        return fault

    def _do(self, name: str, command: dict[str, Any]) -> Reply:
        do = _COMMANDS.get(name)
        if do is None:
            return failure(59, "CommandNotFound", f"the stand-in knows no command '{name}'")
        return do(self, command)

    # --- commands ---

    def hello(self, command: dict[str, Any]) -> Reply:
        return {
            "helloOk": True,
            "ismaster": True,
            "isWritablePrimary": True,
            "setName": "standin",
            "setVersion": 1,
            "hosts": [self.address],
            "me": self.address,
            "primary": self.address,
            "maxBsonObjectSize": 16 * 1024 * 1024,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "logicalSessionTimeoutMinutes": 30,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "ok": 1.0,
        }

    def acknowledge(self, command: dict[str, Any]) -> Reply:
        return {"ok": 1.0}

    def authenticate(self, command: dict[str, Any]) -> Reply:
        """Know no user."""
        return failure(18, "AuthenticationFailed", "Authentication failed.")

    def insert(self, command: dict[str, Any]) -> Reply:
        collection = self._collections[command["$db"], command["insert"]]
        errors = []
        for index, document in enumerate(command["documents"]):
            if document["_id"] in collection:
                errors.append(duplicate_key(index, "_id"))
            else:
                collection[document["_id"]] = document
        reply = {"n": len(command["documents"]) - len(errors), "ok": 1.0}
        return reply | {"writeErrors": errors} if errors else reply

    def find(self, command: dict[str, Any]) -> Reply:
        if "sort" in command or "projection" in command:
            return failure(238, "NotImplemented", "the stand-in neither sorts nor projects")
        matches = compile_query(_matchable(command.get("filter", {})))
        stored = self._collections[command["$db"], command["find"]].values()
        found = itertools.islice(
            (document for document in stored if matches(_matchable(document))), command.get("limit") or None
        )
        return self._batch(f"{command['$db']}.{command['find']}", list(found), "firstBatch", _FIRST_BATCH)

    def get_more(self, command: dict[str, Any]) -> Reply:
        left = self._cursors.pop(command["getMore"], None)
        if left is None:
            return failure(43, "CursorNotFound", "the cursor is gone")
        return self._batch(f"{command['$db']}.{command['collection']}", left, "nextBatch", len(left))

    def _batch(self, namespace: str, found: list[dict[str, Any]], key: str, size: int) -> Reply:
        cursor_id = 0
        if left := found[size:]:
            cursor_id = next(self._cursor_ids)
            self._cursors[cursor_id] = left
        return {"cursor": {key: found[:size], "id": Int64(cursor_id), "ns": namespace}, "ok": 1.0}

    def drop_database(self, command: dict[str, Any]) -> Reply:
        for key in [key for key in self._collections if key[0] == command["$db"]]:
            del self._collections[key]
        return {"ok": 1.0}


_COMMANDS: dict[str, Callable[[MongoStandin, dict[str, Any]], Reply]] = {
    "hello": MongoStandin.hello,
    "ismaster": MongoStandin.hello,
    "ping": MongoStandin.acknowledge,
    "endSessions": MongoStandin.acknowledge,
    "killCursors": MongoStandin.acknowledge,
    "saslStart": MongoStandin.authenticate,
    "insert": MongoStandin.insert,
    "find": MongoStandin.find,
    "getMore": MongoStandin.get_more,
    "dropDatabase": MongoStandin.drop_database,
}


def failure(code: int, name: str, text: str) -> Reply:
    """Return the reply of a command that failed."""
    return {"ok": 0.0, "code": code, "codeName": name, "errmsg": text}


def duplicate_key(index: int, name: str) -> Reply:
    """Return the entry of `writeErrors` for a taken value of the field `name`."""
    return {
        "index": index,
        "code": 11000,
        "errmsg": f"E11000 duplicate key error dup key: {{ {name} }}",
        "keyPattern": {name: 1},
    }


def _matchable(value: Any) -> Any:
    """Return a value as the query's matcher takes it: an ObjectId as a text that no other value has."""
    if isinstance(value, dict):
        return {key: _matchable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_matchable(item) for item in value]
    if isinstance(value, ObjectId):
        return f"ObjectId({value})"
    return int(value) if isinstance(value, Int64) else value


# --- the wire ---


class _Connection(socketserver.BaseRequestHandler):
    """One connection of a driver, in a thread of its own."""

    server: "_Server"
    request: socket.socket

    def handle(self) -> None:
        self.server.standin.connections += 1
        while header := self._receive(_HEADER.size):
            length, request_id, _, opcode = _HEADER.unpack(header)
            command = _read_command(opcode, self._receive(length - _HEADER.size))
            reply, cut = self.server.standin.respond(command)
            body = bson.encode(reply)
            if opcode == _OP_QUERY:
                answer, body = _OP_REPLY, struct.pack("<iqii", 0, 0, 0, 1) + body
            else:
                answer, body = _OP_MSG, struct.pack("<IB", 0, 0) + body
            message = _HEADER.pack(_HEADER.size + len(body), 0, request_id, answer) + body
            self.request.sendall(message[: len(message) // 2] if cut else message)
            if cut:
                return

    def _receive(self, size: int) -> bytes:
        """Return exactly `size` bytes, b"" when the driver has closed the connection."""
        parts: list[bytes] = []
        while size:
            part = self.request.recv(size)
            if not part:
                return b""
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _read_command(opcode: int, body: bytes) -> dict[str, Any]:
    """Return the command of a message; the documents of an OP_MSG's sequences under their names."""
    if opcode == _OP_QUERY:
        name_end = body.index(b"\0", 4)
        return bson.decode(body[name_end + 9 :])
    command: dict[str, Any] = {}
    at = 4
    while at < len(body):
        (size,) = struct.unpack_from("<i", body, at + 1)
        section = body[at + 1 : at + 1 + size]
        if body[at] == 0:
            command = bson.decode(section) | command
        else:
            name_end = section.index(b"\0", 4)
            command |= {section[4:name_end].decode(): bson.decode_all(section[name_end + 1 :])}
        at += 1 + size
    return command


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, standin: MongoStandin) -> None:
        self.standin = standin
        super().__init__(("127.0.0.1", 0), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A driver that breaks off is no failure of the stand-in; anything else is shown with the test."""
        if not isinstance(sys.exception(), ConnectionError):
            traceback.print_exc()


@contextmanager
def serve_standin() -> Iterator[MongoStandin]:
    """Run a stand-in on a free port of the loopback interface."""
    standin = MongoStandin()
    with _Server(standin) as server:
        standin.address = f"127.0.0.1:{server.socket.getsockname()[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="mongo-standin", daemon=True)
        thread.start()
        try:
            yield standin
        finally:
            standin.release_all()
            server.shutdown()
            thread.join()

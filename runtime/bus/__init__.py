"""The buses. Of this package nats-py is told that there is no aiohttp, see `NotForNats`."""

import sys

_TRANSPORT = "nats.aio.transport"


class NotForNats:
    """Hides aiohttp from nats-py, which imports it wherever it is installed: half of the time until a process is up.

    Our own transport for WebSockets, in `websocket.py`, imports it when an address asks for it.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Find nothing; called by the import system. Raises ModuleNotFoundError for the one import in nats-py."""
        importer = sys.modules.get(_TRANSPORT)
        if name == "aiohttp" and importer is not None and not hasattr(importer, "WebSocketTransport"):
            raise ModuleNotFoundError(f"{_TRANSPORT} needs no aiohttp here", name=name)


sys.meta_path.insert(0, NotForNats)

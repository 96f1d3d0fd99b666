"""What callers are told in place of a traceback."""

from types import SimpleNamespace


class RequestError(Exception):
    """The picture could not be fetched; `response` is what the server has answered."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"HTTP status {status_code}")
        self.response = SimpleNamespace(status_code=status_code)

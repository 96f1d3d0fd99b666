"""What a reader has asked for and not received: the bookkeeping behind its credit. No I/O."""


class OpenRequests:
    """The pull requests that are open, and what each of them may still bring."""

    def __init__(self) -> None:
        # Number of a request -> messages to come; `asked` is their sum.
        self._left: dict[int, int] = {}
        self._number = 0
        self.asked = 0

    @property
    def count(self) -> int:
        return len(self._left)

    def open(self, batch: int) -> int:
        """Note a request for `batch` messages and return its number."""
        self._number += 1
        self._left[self._number] = batch
        self.asked += batch
        return self._number

    def end(self, number: int) -> None:
        """A request is over; what it has not brought it will not bring."""
        self.asked -= self._left.pop(number, 0)

    def charge(self) -> None:
        """A message has come. Requests are served in their order, so it belongs to the oldest one."""
        for number, left in self._left.items():
            self.asked -= 1
            if left == 1:
                del self._left[number]
            else:
                self._left[number] = left - 1
            return

    def forget(self) -> None:
        """The server knows none of them any more."""
        self._left.clear()
        self.asked = 0

"""Turns by state id: the outputs of one id reach the sinks in the order in which its inputs were read."""

import asyncio


class Turns:
    """The last turn of every state id that has one. All members are to be used on the event loop."""

    def __init__(self) -> None:
        self._last: dict[str, asyncio.Future[None]] = {}

    def take(self, state_id: str) -> "Turn":
        """Return the turn behind those that were taken for the same id."""
        before = self._last.get(state_id)
        own: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last[state_id] = own
        return Turn(self, state_id, before, own)

    def forget(self, state_id: str, turn: "asyncio.Future[None]") -> None:
        """Drop the id unless somebody is behind the turn."""
        if self._last.get(state_id) is turn:
            del self._last[state_id]


class Turn:
    """One place in the order of a state id."""

    __slots__ = ("_before", "_own", "_state_id", "_turns")

    def __init__(
        self, turns: Turns, state_id: str, before: "asyncio.Future[None] | None", own: "asyncio.Future[None]"
    ) -> None:
        self._turns = turns
        self._state_id = state_id
        self._before = before
        self._own = own

    async def come(self) -> None:
        """Wait until those before have passed. Cancelling is safe."""
        if self._before is not None:
            # Not the future itself: cancelling the waiter would cancel it for everybody.
            await asyncio.wait([self._before])
            self._before = None

    def pass_on(self) -> None:
        """Let the next one come, also without having had the turn. Repeating it is fine."""
        if not self._own.done():
            self._own.set_result(None)
            self._turns.forget(self._state_id, self._own)

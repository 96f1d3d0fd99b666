"""Core NATS in memory: subscriptions, queue groups and who hears a message."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

from runtime.bus.base import CoreMessage
from runtime.bus.core import OnAnswer
from runtime.bus.subjects import matches
from runtime.errors import NoRespondersError


class MemorySubscription:
    """See `base.Subscription`."""

    def __init__(
        self, router: "MemoryRouter", subject: str, callback: Callable[[CoreMessage], None], queue: str
    ) -> None:
        self._router = router
        self.subject = subject
        self.callback = callback
        self.queue = queue

    async def unsubscribe(self) -> None:
        self.remove()

    def remove(self) -> None:
        """Stop at once; the callbacks of messages that were routed are scheduled already."""
        self._router.remove(self)


class MemoryRouter:
    """Hands a message to every plain subscription and to one member of every queue group, soon and in order."""

    def __init__(self) -> None:
        self._subscriptions: list[MemorySubscription] = []
        self._turns: defaultdict[str, int] = defaultdict(int)

    def subscribe(self, subject: str, callback: Callable[[CoreMessage], None], queue: str) -> MemorySubscription:
        subscription = MemorySubscription(self, subject, callback, queue)
        self._subscriptions.append(subscription)
        return subscription

    def remove(self, subscription: MemorySubscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def route(self, message: CoreMessage) -> bool:
        """Hand over soon; returns whether anybody listens."""
        listeners = [one for one in self._subscriptions if matches(one.subject, message.subject)]
        loop = asyncio.get_running_loop()
        for subscription in self._chosen(listeners):
            loop.call_soon(subscription.callback, message)
        return bool(listeners)

    def _chosen(self, listeners: list[MemorySubscription]) -> list[MemorySubscription]:
        groups: defaultdict[str, list[MemorySubscription]] = defaultdict(list)
        for subscription in listeners:
            groups[subscription.queue].append(subscription)
        chosen = groups.pop("", [])
        for queue, members in groups.items():
            chosen.append(members[self._turns[queue] % len(members)])
            self._turns[queue] += 1
        return chosen


class MemoryScattered:
    """See `core.Scattered`: takes the answers to questions, whose replies are `<inbox>.<number>`."""

    def __init__(self, router: MemoryRouter, inbox: str, on_answer: OnAnswer) -> None:
        self._open: set[int] = set()
        self._inbox = inbox
        self._on_answer = on_answer
        self._subscription = router.subscribe(f"{inbox}.*", self._on_reply, "")

    def reply_to(self, number: int) -> str:
        """Wait for the answer to a question, and return where it is to go."""
        self._open.add(number)
        return f"{self._inbox}.{number}"

    def no_responders(self, number: int, subject: str) -> None:
        """Tell, soon, that nobody listens."""
        error = NoRespondersError(f"nobody listens on {subject}")
        asyncio.get_running_loop().call_soon(self._end, number, error)

    def close(self) -> None:
        self._open.clear()
        self._subscription.remove()

    def _on_reply(self, message: CoreMessage) -> None:
        self._end(int(message.subject.rpartition(".")[2]), message)

    def _end(self, number: int, end: CoreMessage | NoRespondersError) -> None:
        if number in self._open:
            self._open.remove(number)
            self._on_answer(number, end)

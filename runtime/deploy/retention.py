"""What may leave a stream: decided from its state and its consumers'. Pure; the manager reads and purges."""

from collections.abc import Collection, Sequence

from runtime.bus.base import ConsumerState, StreamState

# Part of the stream that handled messages may fill; the rest is room for what is not handled yet.
HISTORY_SHARE = 0.5
# Fill from which a stream is about to refuse messages.
PRESSED_SHARE = 0.75


def done_sequence(last_sequence: int, consumers: Sequence[ConsumerState]) -> int:
    """Return the highest sequence up to which every consumer is done; 0 when there is none.

    last_sequence: of the stream, read *before* the consumers. The other way round, a message could be stored in
    between, and a consumer that has not seen it yet would count as done with it.
    """
    return min((_done_by(consumer, last_sequence) for consumer in consumers), default=0)


def first_within_share(state: StreamState, max_bytes: int) -> int:
    """Return the first sequence of the newest messages that fit into the share of history, by their mean size."""
    excess_bytes = state.size_bytes - round(max_bytes * HISTORY_SHARE)
    if excess_bytes <= 0:
        return state.first_sequence
    # Rounded up: a stream of a few large messages would stay above its share for ever.
    return state.first_sequence + -(-excess_bytes * state.messages // state.size_bytes)


def is_pressed(state: StreamState, max_bytes: int) -> bool:
    """Say whether the stream is about to refuse messages."""
    return state.size_bytes >= max_bytes * PRESSED_SHARE


def slowest(last_sequence: int, consumers: Collection[ConsumerState]) -> ConsumerState | None:
    """Return the consumer that holds back the most, None where there is none."""
    return min(consumers, key=lambda consumer: _done_by(consumer, last_sequence), default=None)


def _done_by(consumer: ConsumerState, last_sequence: int) -> int:
    """A consumer that has caught up keeps the floor of its own last message, which may be long ago."""
    if consumer.pending == 0 and consumer.ack_pending == 0:
        return last_sequence
    return consumer.ack_floor

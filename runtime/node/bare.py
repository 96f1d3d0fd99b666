"""What a bare runner does that a plan does for others: its spec, and what it finds and makes on somebody else's NATS.

A runner is bare when no plan of ours has started it: KRE's manager has, or a hand-made container. The stream is bound
and never made, for whoever runs the workflow owns it; the consumers and the stream of dead letters are the runner's to
make. Handlers are those of KRE: written for one message at a time, with callers who hear of an error at once.
"""

import logging
from collections.abc import Iterable, Sequence

from runtime.bus.base import Bus, ConsumerConfig, ConsumerState, StreamConfig, StreamState
from runtime.bus.subjects import matches, overlap
from runtime.clock import Clock
from runtime.errors import NotFoundError, SettingsError
from runtime.settings import NodeSettings
from runtime.spec import names
from runtime.spec.node import NodeSpec, RetryPolicy

log = logging.getLogger(__name__)

# How long the dead letters of a bare runner are kept: the default of `dead_letter.keep`, 14 days.
DEAD_LETTER_KEEP_S = 14 * 86_400.0
# Seconds that a missing stream is waited for, and between two looks.
STREAM_LIMIT_S = 30.0
STREAM_LOOK_S = 0.5


def bare_spec(settings: NodeSettings) -> NodeSpec:
    """Return the spec of a runner that was given none."""
    return NodeSpec(
        durable="",
        retry=RetryPolicy(attempts=1),
        timeout_s=None,
        concurrency=1,
        exit_channel=names.MAIN_CHANNEL if settings.is_exit else None,
    )


def bare_consumers(settings: NodeSettings) -> list[ConsumerConfig]:
    """Return one consumer for each input."""
    limit = {} if settings.max_ack_pending is None else {"max_ack_pending": settings.max_ack_pending}
    return [
        ConsumerConfig(
            stream=settings.stream,
            durable=names.durable(settings.node, [subject.removeprefix(f"{settings.stream}.")]),
            filter_subjects=(subject,),
            **limit,
        )
        for subject in settings.inputs
    ]


async def bind(bus: Bus, settings: NodeSettings, consumers: Sequence[ConsumerConfig], clock: Clock) -> None:
    """Find the stream, and make or update what this runner owns. Called before `init`, however long that takes.

    A stream of KRE's keeps only what some consumer is interested in: what comes before it exists is lost.
    Raises NotFoundError for a stream that stays missing, SettingsError for subjects that are not in it, DriftError for
    a consumer that cannot be updated.
    """
    _check_subjects(settings, await _find_stream(bus, settings.stream, clock))
    _warn_of_push(settings, await bus.consumer_states(settings.stream))
    await _make_dead_letters(bus, settings.stream)
    for consumer in consumers:
        for line in await bus.ensure_consumer(consumer):
            level = logging.INFO if line.endswith(": created") else logging.WARNING
            log.log(level, "%s", line, extra={"action": "consumer"})


async def _find_stream(bus: Bus, stream: str, clock: Clock) -> StreamState:
    give_up_s = clock.monotonic() + STREAM_LIMIT_S
    while True:
        try:
            return await bus.stream_state(stream)
        except NotFoundError as error:
            if clock.monotonic() >= give_up_s:
                raise NotFoundError(
                    f"stream '{stream}' is missing for {STREAM_LIMIT_S:g} s; check KRT_NATS_STREAM and its manager"
                ) from error
        await clock.sleep(STREAM_LOOK_S)


def _check_subjects(settings: NodeSettings, state: StreamState) -> None:
    """Raise SettingsError for every subject that the stream does not hold: nothing would arrive, or ever be stored."""
    wanted = [("KRT_NATS_INPUT", subject) for subject in settings.inputs] + [("KRT_NATS_OUTPUT", settings.output)]
    if settings.wire == "v1":
        wanted.append(("KRT_NATS_ENTRYPOINT_SUBJECT", settings.entrypoint))
    problems = [
        f"the '{variable}' env var is '{subject}', which stream '{settings.stream}' does not hold;"
        f" it holds {', '.join(state.patterns)}"
        for variable, subject in wanted
        if not any(matches(pattern, subject) for pattern in state.patterns)
    ]
    if problems:
        raise SettingsError(sorted(problems))


def _warn_of_push(settings: NodeSettings, present: Iterable[ConsumerState]) -> None:
    for state in present:
        if state.is_push and any(
            overlap(own, other) for own in settings.inputs for other in state.filter_subjects or (">",)
        ):
            log.warning(
                "push consumer %s of stream %s selects this node's input, too: both receive every message; once no"
                " other runner uses it, delete it, or the stream keeps what it does not acknowledge",
                state.name, settings.stream, extra={"action": "push-consumer"},
            )  # fmt: skip


async def _make_dead_letters(bus: Bus, stream: str) -> None:
    """Make the stream of dead letters if it is missing; one that exists may be another's, and is left as it is."""
    name = names.dead_letter_stream(stream)
    try:
        await bus.stream_state(name)
    except NotFoundError:
        await bus.ensure_stream(StreamConfig(name=name, subjects=(f"{name}.>",), max_age_s=DEAD_LETTER_KEEP_S))

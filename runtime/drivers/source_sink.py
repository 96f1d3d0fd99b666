"""SourceSinkDriver: many sources and many sinks around one workflow. Start here; to write an end, in `flow.py`.

    def cameras() -> SourceSinkDriver:
        driver = SourceSinkDriver()
        driver.add_source("gate", FolderSource(path="frames", rate=10))
        driver.add_sink("out", FileSink(path="out.jsonl"))             # fed by every source
        driver.add_sink("all", MongoSink(collection="seen"), from_="workflow")
        return driver

    source ─▶ SourceLoop ─▶ predict ─▶ SinkLoop ─▶ sink        source_loop.py, sink_loop.py
    every output of the workflow ─▶ SinkFeed ─▶ SinkLoop       sink_feed.py

What is kept about an item until its last sink has it is bounded by `max_in_flight`, so a slow sink slows the sources
down, or makes them drop: memory does not grow.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from runtime.bus.base import ConsumerConfig
from runtime.drivers.base import (
    DriverParameters,
    DriverResources,
    DriverResourcesRequest,
    PipelineDriver,
    RestrictedInferenceProcess,
    ValueProblem,
)
from runtime.drivers.components import WORKFLOW, SinkEntry, check, read_ends
from runtime.drivers.flow import Item, Sink, Site, Source, output_of
from runtime.drivers.sink_feed import SinkFeed
from runtime.drivers.sink_letters import SinkLetters
from runtime.drivers.sink_loop import SinkCounts, SinkLoop
from runtime.drivers.source_loop import SourceCounts, SourceLoop
from runtime.drivers.stored_answers import Answer, StoredAnswers
from runtime.drivers.turns import Turns
from runtime.errors import DriverStartError
from runtime.spec import names

# Seconds that what is in flight has to reach its sinks after a stop; below the driver's own stop timeout.
STOP_GRACE_S = 7.0


@dataclass
class SourceSinkParameters(DriverParameters):
    """What can be changed while it runs. rates: inputs per second by source; 0 for as fast as they come."""

    rates: dict[str, float] = field(default_factory=dict)


class SourceSinkDriver(PipelineDriver):
    """See the module."""

    def __init__(self, *, sources: Mapping[str, Any] | None = None, sinks: Mapping[str, Any] | None = None) -> None:
        """Take sources and sinks by ref: instances, or mappings as workflow files have them.

        Raises DriverStartError with every problem of the mappings.
        """
        ends = check(read_ends(sources or {}, sinks or {}))
        self._sources: dict[str, Source] = ends.sources
        self._sinks: dict[str, SinkEntry] = ends.sinks
        self._rates: dict[str, float] = {ref: source.params.rate or 0.0 for ref, source in ends.sources.items()}
        self._source_loops: dict[str, SourceLoop] = {}
        self._sink_loops: dict[str, SinkLoop] = {}
        self._stopped = asyncio.Event()

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Iterable[ValueProblem]:
        ends = read_ends(values.get("sources") or {}, values.get("sinks") or {})
        return [ValueProblem(problem.path, problem.what) for problem in ends.problems]

    def add_source(self, ref: str, source: Source) -> None:
        """Add a source, before the driver starts. ref: a name. Raises ValueError for one that is taken or no name."""
        _check_ref(ref, self._sources)
        self._sources[ref] = source
        self._rates[ref] = source.params.rate or 0.0

    def add_sink(self, ref: str, sink: Sink, from_: str | Sequence[str] | None = None) -> None:
        """Add a sink, before the driver starts.

        from_: refs of the sources whose outputs it gets, None for all; `workflow` for every output of the workflow,
        whoever has asked for it. Raises ValueError as `add_source` does.
        """
        _check_ref(ref, self._sinks)
        feeds = from_ if from_ == WORKFLOW else (from_,) if isinstance(from_, str) else tuple(from_ or ())
        self._sinks[ref] = SinkEntry(sink, feeds)

    def counts(self) -> dict[str, SourceCounts | SinkCounts]:
        """Return what became of everything so far, by ref with `source.` or `sink.` before it."""
        found: dict[str, SourceCounts | SinkCounts] = {}
        found.update({f"source.{ref}": loop.counts for ref, loop in self._source_loops.items()})
        found.update({f"sink.{ref}": loop.counts for ref, loop in self._sink_loops.items()})
        return found

    def counters(self) -> dict[str, int]:
        """Return `counts` as `source.<ref>.read` and so on, without those that are zero."""
        each = (
            (f"{ref}.{name}", value) for ref, counts in self.counts().items() for name, value in asdict(counts).items()
        )
        return {name: value for name, value in each if value}

    # --- driver ---

    def resources_request(self) -> DriverResourcesRequest:
        return DriverResourcesRequest(ports=[ref for ref, source in self._sources.items() if source.needs_port])

    def get_parameters(self) -> SourceSinkParameters:
        return SourceSinkParameters(rates=dict(self._rates))

    def set_parameters(self, parameters: SourceSinkParameters) -> None:
        for ref, rate in parameters.rates.items():
            if ref not in self._sources:
                raise ValueError(f'there is no source "{ref}"; there are {", ".join(self._sources) or "none"}')
            if rate < 0:
                raise ValueError(f'the rate of "{ref}" is {rate:g}; give a number above 0, or 0 for no limit')
        for ref, rate in parameters.rates.items():
            self._rates[ref] = rate
            if ref in self._source_loops:
                self._source_loops[ref].set_rate(rate or None)

    async def run(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        """Work until every source is drained; with a sink that reads the workflow, until stopped.

        Raises DriverError when a source fails, and what a sink's first `open` raises.
        """
        self._check_feeds()
        self._lend(inference, resources)
        async with SinkLetters(inference.bus, inference.clock, inference.stream, inference.driver) as letters:
            self._sink_loops = {
                ref: SinkLoop(ref, entry.sink, inference.clock, letters) for ref, entry in self._sinks.items()
            }
            self._source_loops = self._make_source_loops(inference)
            try:
                for sink in self._sink_loops.values():
                    await sink.open()
                for source in self._source_loops.values():
                    await source.prepare()
                await self._work(inference, self._make_feeds(inference, letters))
            except ExceptionGroup as group:
                raise _first(group) from group
            finally:
                for sink in self._sink_loops.values():
                    await sink.close()

    def stop(self) -> None:
        self._stopped.set()

    # --- parts ---

    def _check_feeds(self) -> None:
        for ref, entry in self._sinks.items():
            unknown = set() if isinstance(entry.feeds, str) else set(entry.feeds) - set(self._sources)
            if unknown:
                raise DriverStartError(f'sink "{ref}" is fed by {", ".join(sorted(unknown))}, which no source is')

    def _lend(self, inference: RestrictedInferenceProcess, resources: DriverResources) -> None:
        components: list[tuple[str, Source | Sink]] = [*self._sources.items()]
        components += [(ref, entry.sink) for ref, entry in self._sinks.items()]
        for ref, component in components:
            component.site = Site(
                ref=ref,
                driver=inference.driver,
                stream=inference.stream,
                bus=inference.bus,
                clock=inference.clock,
                resources=resources,
            )

    def _make_source_loops(self, inference: RestrictedInferenceProcess) -> dict[str, SourceLoop]:
        answers = StoredAnswers(inference.bus, inference.stream, inference.output_subjects)
        turns = Turns()
        loops = {
            ref: SourceLoop(ref, source, inference, answers=answers, turns=turns, deliver=self._deliver)
            for ref, source in self._sources.items()
        }
        for ref, loop in loops.items():
            loop.set_rate(self._rates[ref] or None)
        return loops

    def _make_feeds(self, inference: RestrictedInferenceProcess, letters: SinkLetters) -> list[SinkFeed]:
        fed = [ref for ref, entry in self._sinks.items() if entry.feeds == WORKFLOW]
        return [
            SinkFeed(
                inference.bus,
                inference.clock,
                ConsumerConfig(
                    stream=inference.stream,
                    durable=names.sink_durable(inference.driver, ref),
                    filter_subjects=tuple(inference.output_subjects),
                ),
                self._sink_loops[ref],
                letters,
            )
            for ref in fed
        ]

    def _deliver(self, item: Item, answers: Sequence[Answer]) -> "asyncio.Future[Any]":
        """Queue the answers to one item at every sink that it feeds."""
        fed = [self._sink_loops[ref] for ref, entry in self._sinks.items() if _is_fed(entry, item.source)]
        return asyncio.gather(
            *(
                sink.put(*_output(item, number, answer))
                for number, answer in enumerate(answers)
                for sink in fed
                if sink.takes_errors or not answer.error
            )
        )

    # --- work ---

    async def _work(self, inference: RestrictedInferenceProcess, feeds: Sequence[SinkFeed]) -> None:
        async with asyncio.TaskGroup() as tasks:
            serving = [tasks.create_task(sink.run(), name=f"sink {ref}") for ref, sink in self._sink_loops.items()]
            serving += [tasks.create_task(feed.run(), name="sink feed") for feed in feeds]
            await self._run_sources(inference)
            if feeds:
                await self._stopped.wait()
            for task in serving:
                task.cancel()

    async def _run_sources(self, inference: RestrictedInferenceProcess) -> None:
        """Run the sources until they are drained, or after a stop until their grace time is over."""
        if not self._source_loops:
            return
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(source.run(), name=f"source loop {ref}") for ref, source in self._source_loops.items()
            ]
            stopping = tasks.create_task(self._stop_sources(inference, running), name="stop of sources")
            await asyncio.wait(running)
            stopping.cancel()

    async def _stop_sources(
        self, inference: RestrictedInferenceProcess, running: Sequence["asyncio.Task[None]"]
    ) -> None:
        await self._stopped.wait()
        for source in self._source_loops.values():
            source.stop()
        await inference.clock.sleep(STOP_GRACE_S)
        for task in running:  # what they have in flight is not acknowledged, and comes again
            task.cancel()


def _check_ref(ref: str, taken: Mapping[str, Any]) -> None:
    if not names.is_name(ref):
        raise ValueError(f'"{ref}" is no name; use a-z, 0-9 and -, at most {names.MAX_NAME_LENGTH} characters')
    if ref in taken:
        raise ValueError(f'the ref "{ref}" is taken')


def _is_fed(entry: SinkEntry, source: str) -> bool:
    return entry.feeds != WORKFLOW and (not entry.feeds or source in entry.feeds)


def _output(item: Item, number: int, answer: Answer) -> tuple[Any, Item]:
    """Return the arguments of `Sink.write` for one answer."""
    answered = replace(item, number=number, error=answer.error)
    return output_of(answer.value, answered), answered


def _first(group: "ExceptionGroup[Exception]") -> Exception:
    """Return the innermost first error of nested groups."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error

"""The process of a fused chain: its nodes side by side, each with its own runner, joined by links.

What a node is, its runner does not know: it decodes, handles, retries and gives up as it does in a process of its own.
Only its reader and its way out differ, see `link.py`. So every node keeps its own timeout, retries, dead letters,
metrics and presence, and all of them share a connection and one delivery of the stream.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from runtime import log as logs
from runtime.bus.base import Bus, ConsumerConfig
from runtime.clock import Clock, SystemClock
from runtime.node.fused_outputs import FusedOutputs
from runtime.node.handler import LoadedHandler
from runtime.node.kinds import MakeHandler, prepare_handler
from runtime.node.link import ChainReader, Link
from runtime.node.modules import HandlerModules
from runtime.node.process import NodeProcess, Stores, open_stores, read_spec
from runtime.settings import NodeSettings
from runtime.spec import names
from runtime.spec.node import FusedNode

# Seconds that each node has to end, once the chain has settled what it took, or has used up the grace time.
LAST_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Member:
    """One node of a chain."""

    settings: NodeSettings
    stores: Stores
    handler: LoadedHandler


class FusedProcess:
    """The nodes of one chain; has what the process of a single node has."""

    def __init__(self, members: Sequence[Member], bus: Bus, clock: Clock | None = None) -> None:
        """members: in the order of their messages."""
        clock = clock or SystemClock()
        first = members[0].settings
        consumer = ConsumerConfig(stream=first.stream, durable=read_spec(first).durable, filter_subjects=first.inputs)
        self._grace_s = first.grace_s
        self._reader = ChainReader(bus.reader(consumer, create=False))
        self.nodes: list[NodeProcess] = []
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for member in members:
            settings = replace(member.settings, grace_s=LAST_GRACE_S)
            reader = self._link_to(settings.node, clock) if self.nodes else self._reader
            self.nodes.append(NodeProcess(settings, bus, member.stores, member.handler, clock, reader))

    def _link_to(self, node: str, clock: Clock) -> Link:
        """Return the reader of a node, to which the last one so far hands its output over."""
        link = Link(self._reader, clock)
        self._reader.links[node] = link
        before = self.nodes[-1]
        assert isinstance(before.outputs, FusedOutputs) and before.spec.hand_over, "planned as a node of a chain"
        before.outputs.connect(link, before.spec.hand_over)
        return link

    async def start(self) -> None:
        """Start the nodes, the last one first: when the chain takes a message, every `init` has ended."""
        for node in reversed(self.nodes):
            # What a node starts inherits it, so that its log lines bear its name.
            before = logs.NODE.set(node.settings.node)
            try:
                await node.start()
            finally:
                logs.NODE.reset(before)
            node.failed.add_done_callback(self._on_failure)
            if (link := self._reader.links.get(node.settings.node)) is not None:
                link.connect(node.settings.node, node.work_on, node.metrics)

    async def stop(self) -> None:
        """Finish what was taken within the grace time, then stop every node; each is tried."""
        await self._reader.finish(self._grace_s)
        errors = [error for node in self.nodes if (error := await _stop(node)) is not None]
        if errors:
            raise errors[0]

    def _on_failure(self, failed: asyncio.Future[None]) -> None:
        if not failed.cancelled() and not self.failed.done() and (error := failed.exception()) is not None:
            self.failed.set_exception(error)


async def _stop(node: NodeProcess) -> Exception | None:
    try:
        await node.stop()
    except Exception as error:  # the others have to be stopped all the same
        return error
    return None


def prepare_chain(settings: NodeSettings) -> Callable[[Bus], FusedProcess]:
    """Load the handlers of a chain, open its stores, and return what makes the process. Raises ConfigError."""
    modules = HandlerModules(settings.base_path.absolute())
    makers = [(each, prepare_alone(modules, each), open_stores(each)) for each in chain_settings(settings)]

    def make(bus: Bus) -> FusedProcess:
        clock = SystemClock()
        return FusedProcess([Member(each, stores, make(bus, clock)) for each, make, stores in makers], bus, clock)

    return make


def prepare_alone(modules: HandlerModules, settings: NodeSettings) -> MakeHandler:
    """Load one node's code as if no other node's were in the process. Raises HandlerLoadError."""
    return modules.alone([settings.handler_path], lambda: prepare_handler(settings, read_spec(settings)))


def chain_settings(settings: NodeSettings) -> list[NodeSettings]:
    """Return the settings of every node in the process of this one, itself first."""
    return [settings, *(_settings_of(node, settings) for node in read_spec(settings).behind)]


def _settings_of(node: FusedNode, first: NodeSettings) -> NodeSettings:
    return replace(
        first,
        node=node.node,
        inputs=(node.input, names.redrive_subject(node.node, node.input)),
        output=node.output,
        handler_path=node.handler,
        configuration_buckets={**first.configuration_buckets, "node": node.configuration},
        object_store=node.object_store,
        node_spec=node.spec.model_dump_json(),
    )

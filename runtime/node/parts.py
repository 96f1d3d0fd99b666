"""What a runner is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.bus.base import Publisher, Reader
from runtime.bus.claims import Claims
from runtime.clock import Clock
from runtime.message import Message
from runtime.node.context import Services
from runtime.node.dead_letters import DeadLetters
from runtime.node.gate import Gate
from runtime.node.handler import LoadedHandler
from runtime.node.history import History
from runtime.node.metrics import NodeMetrics
from runtime.node.selection import Skips
from runtime.node.work import Outputs
from runtime.spec.node import NodeSpec
from runtime.threads import HandlerThreads


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a runner works with; `process.py` puts it together, and tests do with the memory bus.

    error_subject: where an ERROR goes so that it reaches the exit node. forward_subject: the node's own output.
    decode: reads an envelope of the runner's wire version. claims: for payloads that lie in an object store; None where
    `decode` refuses them.
    """

    spec: NodeSpec
    handler: LoadedHandler
    services: Services
    outputs: Outputs
    publisher: Publisher
    readers: Sequence[Reader]
    dead_letters: DeadLetters
    history: History
    gate: Gate | None
    skips: Skips
    metrics: NodeMetrics
    threads: HandlerThreads
    concurrency: int
    error_subject: str
    forward_subject: str
    decode: Callable[[bytes], Message]
    claims: Claims | None
    clock: Clock

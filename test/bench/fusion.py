"""A chain of three nodes fused into one process, to be compared with a process for each."""

from collections.abc import Sequence
from pathlib import Path

from runtime.spec.node import FusedNode, HandOver, NodeSpec
from test.bench.processes import Child, Stage, start_node
from test.bench.report import Target
from test.bench.throughput import NODE, Contender

HANDLER = "echo.py"
# How many times the messages a second of a process for each node.
TARGETS = {"unfused": Target(bound=2.5)}


class FusedChain(Contender):
    """All stages in one process."""

    def start_all(self, stages: Sequence[Stage], folder: Path) -> list[Child]:
        behind = tuple(
            FusedNode(
                node=stage.node,
                handler=HANDLER,
                input=stage.source,
                output=stage.target,
                configuration="",
                spec=_spec(stage, fused_with=stages[0].node),
            )
            for stage in stages[1:]
        )
        first = _spec(stages[0]).model_copy(update={"behind": behind})
        return [start_node(stages[0], folder, handler=HANDLER, spec=first)]


CONTENDERS = (
    FusedChain(NODE.name, start_node, takes_envelopes=True),
    Contender("unfused", start_node, takes_envelopes=True),
)


def _spec(stage: Stage, fused_with: str = "") -> NodeSpec:
    """Return what the plan of `fuse` tells a node of the chain."""
    return NodeSpec(
        durable=stage.durable,
        exit_channel="main" if stage.is_last else None,
        hand_over=HandOver() if stage.is_last else HandOver(subjects=(stage.target,)),
        fused_with=fused_with,
    )

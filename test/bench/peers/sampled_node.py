"""Our node with a sampler that looks where it is; the counts by stage are the last line that it prints."""

import json
import sys
from types import CodeType

from runtime import wire
from runtime.bus.connection import Connection
from runtime.bus.direct import DirectClient, DirectParser
from runtime.bus.publish import NatsPublisher
from runtime.bus.pull import NatsReader
from runtime.cli import processes
from runtime.node import process
from runtime.node.parts import Parts
from runtime.node.runner import Runner
from runtime.payload import encode_value
from test.bench.sampler import Sampler

# Functions by the stage of a message that they are, with all that they call and is no other stage.
STAGES = {
    DirectParser.parse: "read",
    NatsReader._on_message: "take",
    NatsReader.take: "take",
    Runner.work_on: "run",
    Runner._read: "decode",
    Runner._decode: "decode",
    encode_value: "encode",
    wire.encode_output: "encode",
    NatsPublisher.publish: "publish",
    NatsPublisher._on_answer: "confirm",
    Runner._finish: "settle",
    NatsReader._settle: "settle",
    Connection._next_batch: "send",
    DirectClient.write: "send",
}
HANDLER, REST = "handler", "loop"


class SampledRunner(Runner):
    """Is looked at while it takes messages, not while the process starts and ends."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        assert parts.handler.default is not None, "the benchmark's handler is called for every message"
        self.sampler = Sampler(stages_by_code() | {parts.handler.default.function.__code__: HANDLER}, REST)

    async def start(self) -> None:
        await super().start()
        self.sampler.start()

    async def stop(self, grace_s: float) -> None:
        self.sampler.stop()
        print(json.dumps(self.sampler.counts), flush=True)
        await super().stop(grace_s)


def stages_by_code() -> dict[CodeType, str]:
    return {function.__code__: stage for function, stage in STAGES.items()}


if __name__ == "__main__":
    process.Runner = SampledRunner  # type: ignore[attr-defined]  # the process makes its runner by this name
    sys.exit(processes.run(sys.argv[1]))

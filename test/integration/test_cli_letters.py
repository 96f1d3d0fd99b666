"""`krt dlq`, `repro`, `peek` and `trace` on a real server: what they print, refuse, and end with."""

import asyncio
import json
import sys
import textwrap
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime import wire
from runtime.bus.base import StreamConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.cli import exits
from runtime.cli.main import main
from runtime.message import Message
from runtime.node.state import StateEntry
from runtime.payload import encode_value
from runtime.spec import names
from runtime.spec.selection import SELECTION_METADATA, Conditions, SelectionSpec
from test.support.letters import ENTRYPOINT, STREAM, Flow, envelope

FILE = "name: flow\nnodes: [{name: score, handler: score.py, config: {limit: '7'}, env: {MODE: fast}}, {name: audit}]\n"
FAILS = "def handler(ctx, data: dict):\n    return data['missing']\n"


@dataclass(frozen=True, slots=True)
class Krt:
    """Runs commands in this process, against one stream."""

    url: str
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        self.monkeypatch.setattr(sys, "argv", ["krt", *arguments, "--nats", self.url, "--stream", STREAM])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self.capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    def prepare(self, step: Callable[[Flow], Awaitable[None]]) -> None:
        """Do something with the streams before, or between, commands."""

        async def run() -> None:
            bus = await NatsBus.connect([self.url], name="prepare")
            flow = await Flow(bus).open()
            await step(flow)
            await flow.close()
            await bus.close()

        asyncio.run(run())

    def write(self, handler: str) -> None:
        (self.folder / "workflow.yaml").write_text(FILE)
        (self.folder / "audit").mkdir(exist_ok=True)
        (self.folder / "audit" / "handler.py").write_text(FAILS)
        (self.folder / "score.py").write_text(textwrap.dedent(handler))


@pytest.fixture
def krt(
    nats_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Krt:
    monkeypatch.setenv("MODE", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return Krt(nats_server.url, tmp_path, monkeypatch, capsys)


async def give_up_three(flow: Flow) -> None:
    """Leave dead letters 1 and 2 of `score`, and 3 of `audit`."""
    for number, (node, reason) in enumerate([("score", "failed"), ("score", "timeout"), ("audit", "failed")]):
        await flow.send(envelope({"n": number}, f"r{number}"), message_id=f"r{number}")
        taken = {name: await flow.take(name) for name in ("score", "audit")}
        await flow.die(taken.pop(node), node, reason=reason, request_id=f"r{number}")
        for name, delivery in taken.items():
            flow.readers[name].ack(delivery)


def test_letters_are_listed_as_a_table_and_as_lines_of_json(krt: Krt) -> None:
    krt.prepare(give_up_three)

    code, table, _ = krt("dlq", "ls")
    _, lines, _ = krt("dlq", "ls", "--json", "--node", "score", "--reason", "timeout", "--since", "1h")

    assert code == exits.OK
    assert [row.split()[:3] for row in table.splitlines()] == [
        ["id", "node", "reason"], ["1", "score", "failed"], ["2", "score", "timeout"], ["3", "audit", "failed"],
    ]  # fmt: skip
    [record] = [json.loads(line) for line in lines.splitlines()]
    assert (record["id"], record["node"], record["request_id"], record["sequence"]) == (2, "score", "r1", 2)
    assert krt("dlq", "ls", "--until", "1h") == (exits.OK, "", "no dead letters\n")


def test_a_letter_is_shown_with_its_input_as_json(krt: Krt) -> None:
    krt.prepare(give_up_three)

    code, text, _ = krt("dlq", "show", "2", "--json")

    assert code == exits.OK
    assert json.loads(text)["value"] == {"n": 1}
    assert krt("dlq", "show", "9") == (
        exits.FAILED, "", "krt: there is no dead letter 9: it was dropped, redriven or never there\n",
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [[], ["1", "--all"], ["--all", "--node", "score"]])
@pytest.mark.parametrize("command", ["redrive", "drop"])
def test_nothing_is_redriven_or_dropped_without_saying_what(krt: Krt, command: str, arguments: list[str]) -> None:
    krt.prepare(give_up_three)

    code, _, errors = krt("dlq", command, *arguments)

    assert code == exits.CONFIG
    assert errors.startswith("say which dead letters: ids, or filters")
    assert len(krt("dlq", "ls", "--json")[1].splitlines()) == 3


def test_some_are_redriven_and_what_cannot_be_is_left_with_its_reason(krt: Krt) -> None:
    krt.prepare(give_up_three)

    async def remove_audit(flow: Flow) -> None:
        await flow.readers.pop("audit").close()
        await flow.bus.delete_consumer(STREAM, "audit__entrypoint")

    assert krt("dlq", "redrive", "2", "2") == (exits.OK, "redriven 1\n", "")
    assert krt("dlq", "redrive", "2")[:2] == (exits.FAILED, "redriven 0, left 1\n")
    krt.prepare(remove_audit)
    code, output, errors = krt("dlq", "redrive", "--all")

    assert (code, output) == (exits.FAILED, "redriven 1, left 1\n")
    assert errors.startswith('dead letter 3 is left: node "audit" does not read local_dev_flow.entrypoint any more')
    assert [json.loads(line)["id"] for line in krt("dlq", "ls", "--json")[1].splitlines()] == [3]


def test_letters_are_dropped_by_filter_and_by_id(krt: Krt) -> None:
    krt.prepare(give_up_three)

    assert krt("dlq", "drop", "--node", "score") == (exits.OK, "dropped 2\n", "")
    assert krt("dlq", "drop", "3") == (exits.OK, "dropped 1\n", "")
    assert krt("dlq", "drop", "3") == (
        exits.FAILED, "dropped 0\n", "there is no dead letter 3: it was dropped, redriven or never there\n",
    )  # fmt: skip


def test_a_workflow_that_keeps_no_dead_letters_says_so(krt: Krt) -> None:
    async def without(flow: Flow) -> None:
        answer = await flow.bus.request(f"$JS.API.STREAM.DELETE.{STREAM}_dlq", b"", timeout_s=5.0)
        assert b'"success":true' in answer.data

    krt.prepare(without)

    code, _, errors = krt("dlq", "ls")

    assert (code, errors) == (exits.FAILED, f"krt: {STREAM} keeps no dead letters: its nodes say `dead_letter: drop`\n")


def test_repro_prints_the_users_traceback_and_no_frame_of_the_runtime(krt: Krt) -> None:
    krt.prepare(give_up_three)
    krt.write(FAILS)

    code, output, errors = krt("repro", "1", "--path", str(krt.folder))

    assert code == exits.FAILED
    assert output.splitlines()[:2] == [
        "Traceback (most recent call last):", f'  File "{krt.folder / "score.py"}", line 2, in handler',
    ]  # fmt: skip
    assert output.endswith("KeyError: 'missing'\n")
    assert errors.startswith("score (score.py) on message 1 of local_dev_flow\nfails after ")


def test_repro_runs_the_handler_as_its_node_does_and_sends_nothing(krt: Krt) -> None:
    async def configure(flow: Flow) -> None:
        await give_up_three(flow)
        bucket = names.configuration_bucket("local", "dev", "flow", "score")
        await (await flow.bus.key_value(bucket, create=True)).put("limit", b"8")

    krt.prepare(configure)
    krt.write(
        """
        import os

        def init(ctx):
            ctx.set("mode", os.environ["MODE"])

        async def handler(ctx, data: dict):
            await ctx.send_output("sent", "side")
            await ctx.db.save("seen", {"request": ctx.request_id})
            return [ctx.get("mode"), await ctx.configuration.get("limit"), data]
        """
    )

    code, output, errors = krt("repro", "2", "--path", str(krt.folder))

    assert code == exits.OK
    assert output.replace("\n", "").replace(" ", "").startswith('sentonside:"sent"savedinseen:{"')
    assert output.replace("\n", "").replace(" ", "").endswith('returned:"fast"returned:"8"returned:{"n":1}')
    assert "passes now, in " in errors
    assert len(krt("peek", "score", "--json")[1].splitlines()) == 0


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        ("async def handler(ctx, data: str): ...", "DecodeError: the payload does not fit str"),
        ("def handler(ctx, data): return {1, 2}", "EncodeError: set"),
        (
            "from runtime.errors import Reject\ndef handler(ctx, data): return Reject('no such city')",
            "Reject: no such city",
        ),
    ],
)
def test_repro_tells_what_the_runner_would_not_take(krt: Krt, handler: str, told: str) -> None:
    krt.prepare(give_up_three)
    krt.write(handler)

    code, output, _ = krt("repro", "1", "--path", str(krt.folder))

    assert code == exits.FAILED
    assert told in output


def test_repro_enters_the_debugger_where_the_handler_raises(krt: Krt, monkeypatch: pytest.MonkeyPatch) -> None:
    krt.prepare(give_up_three)
    krt.write(FAILS)
    lines: list[int] = []

    def post_mortem(traceback: object) -> None:
        last = traceback
        while (following := getattr(last, "tb_next", None)) is not None:
            last = following
        lines.append(getattr(last, "tb_lineno", 0))

    monkeypatch.setattr("pdb.post_mortem", post_mortem)

    assert krt("repro", "1", "--pdb", "--path", str(krt.folder))[0] == exits.FAILED
    assert lines == [2]


def test_peek_shows_input_and_entrypoint_and_names_the_nodes_there_are(krt: Krt) -> None:
    krt.prepare(give_up_three)

    by_input = [json.loads(line) for line in krt("peek", "score", "--input", "--last", "2", "--json")[1].splitlines()]
    first = [json.loads(line) for line in krt("peek", "entrypoint", "--first", "1", "--json")[1].splitlines()]

    assert [(each["sequence"], each["value"]) for each in by_input] == [(2, {"n": 1}), (3, {"n": 2})]
    assert [each["sequence"] for each in first] == [1]
    assert krt("peek", "score") == (exits.OK, "", "no messages of score are kept\n")
    assert krt("peek", "scare") == (
        exits.FAILED, "", f'krt: workflow "{STREAM}" has no node "scare"; its nodes: audit, score\n',
    )  # fmt: skip


def test_a_trace_is_told_as_json_and_a_request_that_is_not_there_as_missing(krt: Krt) -> None:
    krt.prepare(give_up_three)

    code, text, _ = krt("trace", "r1", "--json")

    found = json.loads(text)
    assert code == exits.OK
    assert (found["read"], found["complete"], found["roots"]) == (3, True, [2])
    [message] = found["messages"]
    assert [(step["node"], step["fate"], step["dead_letter"]) for step in message["steps"]] == [
        ("audit", "done", None), ("score", "dead letter", 2),
    ]  # fmt: skip
    assert krt("trace", "r9", "--limit", "1") == (
        exits.FAILED, "", "request r9 is not among the newest 1 messages; look at more with --limit\n",
    )  # fmt: skip


def test_a_trace_says_what_a_node_has_left_a_message_out_for(krt: Krt) -> None:
    async def leave_out(flow: Flow) -> None:
        asked = SelectionSpec(nodes={"score": {ENTRYPOINT: Conditions(fields={"meta.camera": ("gate-3",)})}})
        subjects = tuple(names.stream_subjects(STREAM))
        metadata = {SELECTION_METADATA: asked.model_dump_json()}
        await flow.bus.ensure_stream(StreamConfig(name=STREAM, subjects=subjects, metadata=metadata))
        await flow.send(envelope({"meta": {"camera": "gate-1"}}, "r1"))
        for node in ("score", "audit"):
            await flow.handle(node)

    krt.prepare(leave_out)

    _, output, _ = krt("trace", "r1")
    _, text, _ = krt("trace", "r1", "--json")

    assert "score: left out, field 'meta.camera' does not fit" in output
    steps = json.loads(text)["messages"][0]["steps"]
    assert [(step["node"], step["unfit"]) for step in steps] == [("audit", ""), ("score", "field 'meta.camera'")]


def test_a_trace_shows_dead_letters_of_messages_that_are_purged(krt: Krt) -> None:
    async def purge(flow: Flow) -> None:
        await give_up_three(flow)
        await flow.bus.purge(STREAM, below=4)

    krt.prepare(purge)

    code, output, _ = krt("trace", "r1")

    assert code == exits.OK
    assert output.splitlines()[1] == "└── dead letter 2 of score; its messages are purged"


def test_repro_gives_the_handler_a_copy_of_its_state(krt: Krt) -> None:
    async def keep_a_state(flow: Flow) -> None:
        message = Message(request_id="r1", payload=encode_value({}), state_id="cam-1")
        await flow.send(wire.encode(message))
        await flow.die(await flow.take("score"))
        entry = StateEntry(
            state_id="cam-1", payload=encode_value({"seen": 4}), request_id="r0", origin=1, subject="", sequence=1,
            stored_ns=1, first_number=0, outputs=(),
        )  # fmt: skip
        bucket = await flow.bus.key_value(names.state_bucket(STREAM, "score"), create=True)
        await bucket.put(names.state_key("cam-1"), entry.encode())

    krt.prepare(keep_a_state)
    krt.write("def handler(ctx, data: dict):\n    ctx.state['seen'] += 1\n    return ctx.state\n")
    (krt.folder / "workflow.yaml").write_text("name: flow\nnodes: [{name: score, handler: score.py, state: {}}]\n")

    first = krt("repro", "1", "--path", str(krt.folder))
    again = krt("repro", "1", "--path", str(krt.folder))

    assert first[:2] == again[:2] == (exits.OK, 'returned: {\n  "seen": 5\n}\n')

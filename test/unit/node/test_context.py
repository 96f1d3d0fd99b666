"""`ctx`, member by member; the texts of its errors are fixed."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from runtime.stores.prediction import COLLECTION
from test.support.node import NodeUnderTest, node_spec
from test.unit.node.conftest import StartNode


async def evaluate(start_node: StartNode, body: str, **options: Any) -> Any:
    """Run statements in a handler; return `result`, or `Class: text` of what they raised."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    node = await start_node(
        f"""
import asyncio
from datetime import datetime, timedelta, timezone
async def handler(ctx, data):
    result = None
    try:
{lines}
    except Exception as error:
        result = f"{{type(error).__name__}}: {{error}}"
    return [str(result)]
""",
        **options,
    )
    await node.send({"a": 1}, request_id="r1", headers={"k": "v"})
    await node.clock.advance(options.pop("seconds", 0))
    await node.settled()
    return node.outputs()[0]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("ctx.request_id", "r1"),
        ("ctx.get_request_id()", "r1"),
        ("ctx.from_node", "entrypoint"),
        ("dict(ctx.headers)", "{'k': 'v'}"),
        ("repr(ctx.error)", "''"),
        ("ctx.attempt", "1"),
        ("ctx.is_message_ok()", "True"),
        ("ctx.is_message_error()", "False"),
        ("ctx.path('/abs/file')", "/abs/file"),
        ("ctx.get('k', 'default')", "default"),
        ("ctx.get('k', None)", "None"),
        ("ctx.logger.logger.name", "v1-work"),
        ("ctx.measurement.PRECISION_MS", "ms"),
        ("ctx.deadline", "2023-11-14 22:13:30+00:00"),
    ],
)
async def test_a_member_has_the_value(start_node: StartNode, expression: str, expected: str) -> None:
    assert await evaluate(start_node, f"result = {expression}") == expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("ctx.get('model')", "MissingValueError: ctx has no value for 'model'; stored: nothing"),
        ("ctx.set('a', 1); ctx.get('model')", "MissingValueError: ctx has no value for 'model'; stored: a"),
        (
            "ctx.request_id = 'x'",
            "AttributeError: ctx.request_id is read-only; choose another name for your own attribute",
        ),
        ("ctx.model", "AttributeError: ctx has no member 'model' (attributes assigned in init: none)"),
        ("ctx.headers['x'] = 'y'", "TypeError: 'mappingproxy' object does not support item assignment"),
        ("await ctx.send_any({'a': 1})", "TypeError: ctx.send_any takes a google.protobuf.Any, not dict"),
        ("await ctx.db.save('', {})", "ContextError: [ctx.db.save] invalid 'collection'='', must be a nonempty string"),
        ("await ctx.db.save('c', [])", "ContextError: [ctx.db.save] invalid 'data'='<class 'list'>', must be a dict"),
        (
            "await ctx.db.find('', {'a': 1})",
            "ContextError: [ctx.db.find] invalid 'collection'='', must be a nonempty string",
        ),
        (
            "await ctx.db.find(3, {'a': 1})",
            "ContextError: [ctx.db.find] invalid 'collection'='3', must be a nonempty string",
        ),
        ("await ctx.db.find('c', {})", "ContextError: [ctx.db.find] invalid 'query'='{}', must be a nonempty dict"),
        ("await ctx.db.find('c', 'x')", "ContextError: [ctx.db.find] invalid 'query'='x', must be a nonempty dict"),
        (
            "await ctx.prediction.save('a', 'b', error='oops')",
            "ContextError: [ctx.prediction.save] invalid value for metric error oops should be one of"
            " 'missing_values,new_labels'",
        ),
        (
            "await ctx.prediction.save('', 'b')",
            "ContextError: [ctx.prediction.save] invalid 'predicted_value'='', must be a nonempty string",
        ),
        (
            "await ctx.prediction.save('a', '')",
            "ContextError: [ctx.prediction.save] invalid 'true_value'='', must be a nonempty string",
        ),
        (
            "await ctx.prediction.save('a', 'b', utcdate=datetime.now(timezone(timedelta(hours=1))))",
            "ContextError: Input date must be a UTC datetime",
        ),
        ("ctx.measurement.save('m', 'x')", "TypeError: [ctx.measurement.save] invalid 'fields'='str', must be a dict"),
        (
            "ctx.measurement.save('m', {'a': 1}, precision='h')",
            "ValueError: [ctx.measurement.save] invalid 'precision'='h', must be one of s, ms, us, ns",
        ),
        (
            "await ctx.configuration.set('k', 'v')",
            "NotFoundError: no bucket for scope 'node': set KRT_NATS_KEY_VALUE_STORE_NODE",
        ),
        ("await ctx.configuration.get('k')", "NotFoundError: No value found"),
        (
            "await ctx.configuration.get('k', 'team')",
            "KeyError: \"'team' is no scope; use project, workflow or node\"",
        ),
        (
            "await ctx.configuration.set('k', 3)",
            "TypeError: [ctx.configuration] 'value' must be a string, it is int",
        ),
        (
            "await ctx.object_store.get('k')",
            "ContextError: no object store configured: set KRT_NATS_OBJECT_STORE",
        ),
        ("ctx.state", "ContextError: node 'work' has no state: add 'state:' to its YAML"),
        (
            "ctx.run(ctx.send_output(1))",
            "ContextError: use 'await' in an async handler; ctx.run is for plain 'def' handlers",
        ),
    ],
)  # fmt: skip
async def test_a_mistake_has_a_text(start_node: StartNode, statement: str, expected: str) -> None:
    assert await evaluate(start_node, statement) == expected


MESSAGE_MEMBERS = [
    "request_id", "get_request_id()", "from_node", "headers", "error", "attempt", "deadline", "is_message_ok()",
    "is_message_error()", "is_message_early_reply()", "is_message_early_exit()", "progress()", "early_exit()",
]  # fmt: skip


@pytest.mark.parametrize("member", MESSAGE_MEMBERS)
async def test_a_member_of_a_message_is_refused_in_init(start_node: StartNode, member: str) -> None:
    node = await start_node(
        f"""
        errors = []

        def init(ctx):
            try:
                ctx.{member}
            except Exception as error:
                errors.append(str(error))

        async def handler(ctx, data): ...
        """
    )

    name = member.removesuffix("()")
    assert node.module.errors == [f"ctx.{name} is only available while a message is handled"]


async def test_what_init_assigns_is_seen_by_every_delivery_and_what_a_handler_assigns_by_its_own(
    start_node: StartNode,
) -> None:
    node = await start_node(
        """
        def init(ctx):
            ctx.model = "loaded"
            ctx.set("kept", 1)

        async def handler(ctx, data: int):
            seen = getattr(ctx, "mine", "nothing")
            ctx.mine = data
            ctx.model = f"changed by {data}"
            ctx.set("kept", ctx.get("kept") + 1)
            return [[seen, ctx.mine, ctx.model, ctx.get("kept")]]

        def teardown(ctx):
            torn.append(ctx.model)

        torn = []
        """
    )

    await node.send(1)
    await node.send(2)
    await node.settled()
    module = node.module
    await node.stop()

    assert node.outputs() == [["nothing", 1, "changed by 1", 2], ["nothing", 2, "changed by 2", 3]]
    assert module.torn == ["loaded"]


async def test_a_path_is_below_the_workflows_folder(start_node: StartNode, tmp_path: Path) -> None:
    assert await evaluate(start_node, "result = ctx.path('models/a.bin')") == str(tmp_path / "models" / "a.bin")


async def test_log_records_of_a_handler_carry_request_and_attempt(
    start_node: StartNode, caplog: pytest.LogCaptureFixture
) -> None:
    await evaluate(start_node, "ctx.logger.warning('careful', extra={'of_mine': 7})")

    (record,) = (record for record in caplog.records if record.name == "v1-work")
    fields = vars(record)
    assert (fields["request_id"], fields["attempt"], fields["of_mine"]) == ("r1", 1, 7)


async def test_the_nearer_of_timeout_and_request_is_the_deadline(start_node: StartNode) -> None:
    node = await start_node("async def handler(ctx, data): return str(ctx.deadline)")

    await node.send(deadline_ms=1_700_000_004_000)
    await node.settled()

    assert node.outputs() == ["2023-11-14 22:13:24+00:00"]


async def test_a_plain_handler_awaits_through_run(start_node: StartNode) -> None:
    node = await start_node(
        """
        def handler(ctx, data):
            ctx.run(ctx.send_output("sent"))
            try:
                ctx.run(ctx.configuration.get("k"))
            except Exception as error:
                return str(error)
        """
    )

    await node.send()
    await node.settled()

    assert node.outputs() == ["sent", "No value found"]


# --- documents, predictions, measurements ---

SAVES = """
    async def handler(ctx, data):
        first = await ctx.db.save("things", {"n": 1, "a": [1.5, None]})
        second = await ctx.db.save("things", {"n": 1})
        await ctx.prediction.save("cat", "dog", {"score": 0.5})
        found = await ctx.db.find("things", {"n": 1})
        if ctx.attempt == 1:
            raise ValueError("after saving")
        return [[first, second, len(found)]]
"""


async def test_documents_are_not_doubled_by_a_retry(start_node: StartNode) -> None:
    node = await start_node(SAVES)
    await node.run_writer()

    await node.send()
    await node.released()
    await node.clock.advance(5)
    await node.settled()

    ((first, second, found),) = node.outputs()
    assert first != second
    assert found == 2


async def test_documents_with_a_key_may_come_in_another_order(start_node: StartNode) -> None:
    node = await start_node(
        """
        async def handler(ctx, data):
            for name in ("a", "b") if ctx.attempt == 1 else ("b", "a"):
                await ctx.db.save("things", {"name": name, "saved": ctx.attempt, "all": 1}, key=name)
                await ctx.prediction.save(name, "dog", key=name)
            if ctx.attempt == 1:
                raise ValueError("after saving")
            things = await ctx.db.find("things", {"all": 1})
            predictions = await ctx.db.find("classificationMetrics", {"trueValue": "dog"})
            return [[sorted([each["name"], each["saved"]] for each in things), len(predictions)]]
        """
    )
    await node.run_writer()

    await node.send()
    await node.released()
    await node.clock.advance(5)
    await node.settled()

    assert node.outputs() == [[[["a", 1], ["b", 1]], 2]]


async def test_a_derived_id_is_that_of_its_message_and_purpose(start_node: StartNode) -> None:
    node = await start_node(
        """
        seen = []

        async def handler(ctx, data):
            seen.append([ctx.derive_id("charge"), ctx.derive_id("refund")])
            if len(seen) == 1:
                raise ValueError("after charging")
        """
    )

    await node.send()
    await node.released()
    await node.clock.advance(5)
    await node.send()
    await node.settled()

    first, again, other = node.module.seen
    assert first == again
    assert len({*first, *other}) == 4


async def test_a_prediction_is_stored_as_kre_has_it(start_node: StartNode) -> None:
    node = await start_node(
        f"""
        async def handler(ctx, data):
            await ctx.prediction.save("cat", "dog", {{"score": 0.5}})
            (found,) = await ctx.db.find("{COLLECTION}", {{"predictedValue": "cat"}})
            del found["_id"]
            return found
        """
    )
    await node.run_writer()

    await node.send()
    await node.settled()

    (found,) = node.outputs()
    assert list(found.items()) == [
        ("date", "2023-11-14T22:13:20.000000Z"), ("error", ""), ("predictedValue", "cat"), ("trueValue", "dog"),
        ("extra", {"score": 0.5}), ("versionId", "63a1f5"), ("versionName", "v1"),
    ]  # fmt: skip


async def test_a_save_without_a_writer_fails_the_attempt_after_a_minute(start_node: StartNode) -> None:
    node = await start_node(
        "async def handler(ctx, data):\n  await ctx.db.save('c', {'a': 1})",
        spec=node_spec(timeout_s=None, retry={"attempts": 1}),
    )

    await node.send()
    await node.clock.advance(70)
    await node.settled()

    assert node.the_dead_letter().error == "StoreUnavailableError: Error saving data: request timed out"


async def test_a_document_with_a_value_that_has_no_form_names_its_path(start_node: StartNode) -> None:
    text = await evaluate(start_node, "await ctx.db.save('c', {'a': {'b': [float('nan')]}})")

    assert text.startswith("DocumentError: ")
    assert "a.b" in text


async def test_a_measurement_is_written_with_the_runtimes_tags(start_node: StartNode, tmp_path: Path) -> None:
    node = await start_node(
        "async def handler(ctx, data):\n  ctx.measurement.save('speed', {'kmh': 80.5}, {'road': 'A9', 'node': 'mine'})"
    )
    await node.send()
    await node.settled()
    await node.stop()

    rows = points(tmp_path / "points.db")
    assert '"speed"' in rows or "speed" in rows
    assert "A9" in rows
    assert "mine" not in rows
    assert "node_elapsed_time" in rows


def points(file: Path) -> str:
    """Return everything that the point store's file holds, as text."""
    with sqlite3.connect(file) as database:
        tables = [row[0] for row in database.execute("select name from sqlite_master where type = 'table'")]
        rows = [database.execute(f"select * from {table}").fetchall() for table in tables]
    database.close()
    return json.dumps(rows, default=str)


async def test_configuration_is_looked_up_from_the_node_to_the_project(start_node: StartNode, tmp_path: Path) -> None:
    scopes = ("project", "workflow", "node")
    variables = {f"NATS_KEY_VALUE_STORE_{scope.upper()}": scope for scope in scopes}
    source = """
        async def handler(ctx, data):
            return [[await ctx.configuration.get(key) for key in ("p", "w", "n", "empty")]]
    """
    node = NodeUnderTest(tmp_path, source, variables=variables)
    for scope in scopes:
        bucket = await node.outside.key_value(scope, create=True)
        for key in ("p", "w", "n")[: scopes.index(scope) + 1]:
            await bucket.put(key, scope.encode())
        await bucket.put("empty", b"" if scope == "node" else b"full")
    # "p" is known in the project alone, "w" in project and workflow, "n" everywhere but is asked of the node first.
    for scope, key in (("workflow", "p"), ("node", "p"), ("node", "w")):
        await (await node.outside.key_value(scope)).delete(key)
    await node.start()

    await node.send()
    await node.settled()
    await node.stop()

    assert node.outputs() == [["project", "workflow", "node", ""]]


async def test_an_outage_of_the_configuration_is_not_a_missing_value(start_node: StartNode, tmp_path: Path) -> None:
    node = NodeUnderTest(
        tmp_path,
        "async def handler(ctx, data): ...",
        variables={"NATS_KEY_VALUE_STORE_NODE": "node"},
    )
    await node.outside.key_value("node", create=True)
    await node.start()
    assert node.process._services is not None
    configuration = node.process._services.configuration
    node.broker.pause()

    with pytest.raises(Exception, match="does not answer") as raised:
        await configuration.get("k")

    assert type(raised.value).__name__ == "BusUnavailableError"
    node.broker.resume()
    await node.stop()


async def test_a_named_bucket_that_is_missing_fails_the_start_with_its_name(tmp_path: Path) -> None:
    node = NodeUnderTest(
        tmp_path, "async def handler(ctx, data): ...", variables={"NATS_KEY_VALUE_STORE_NODE": "key-store_x"}
    )

    with pytest.raises(Exception, match="key-store_x"):
        await node.start()

    await node.stop()

"""What senders of large payloads are told: a store, and how full each may make it."""

from pathlib import Path

from runtime.deploy.claims_spec import claim_stores, claims_of_node, claims_of_requests
from runtime.spec.claims import claim_object, read_claim_object
from runtime.spec.model import Node, Source, Stream, Workflow

MIB = 1024 * 1024


def node(name: str, *sources: str) -> Node:
    return Node(name=name, handler="handler.py", sources=tuple(Source(node=source) for source in sources))


def workflow(*nodes: Node) -> Workflow:
    return Workflow(
        name="scans",
        nodes=nodes,
        output=Source(node=nodes[-1].name),
        stream=Stream(max_bytes=100 * MIB),
        folder=Path(),
        path=Path("workflow.yaml"),
    )


def test_each_sender_leaves_room_for_those_behind_it() -> None:
    flow = workflow(
        node("cut", "entrypoint"), node("read", "cut", "entrypoint"), node("tell", "read"), node("log", "cut")
    )

    rooms = [claims_of_node(flow, each, "s").room_bytes / MIB for each in flow.nodes]

    assert claims_of_requests(flow, "s").room_bytes == 50 * MIB
    assert [round(room, 1) for room in rooms] == [66.7, 83.3, 100.0, 83.3]
    assert {claims_of_node(flow, each, "s").store for each in flow.nodes} == {"s_claims"}


def test_payloads_of_dead_letters_are_kept_as_long_as_these_and_where_there_are_any() -> None:
    flow = workflow(node("cut", "entrypoint"))

    with_letters, without = claim_stores(flow, "s", 3600.0), claim_stores(flow, "s", None)

    assert [(store.name, store.keep_s, store.max_bytes) for store in with_letters] == [
        ("s_claims", 0.0, 100 * MIB),
        ("s_dlq_claims", 3600.0, 0),
    ]
    assert with_letters[:1] == without


def test_the_name_of_an_object_says_which_message_it_belongs_to() -> None:
    name = claim_object("s.cut.main.p3", "cut.17.0#r1", "0123456789abcdef" * 4)
    answer = claim_object("s.entrypoint", "a/b", "f" * 64, is_answer=True)

    assert name == "message/s.cut.main.p3/0123456789abcdef/cut.17.0#r1"
    assert read_claim_object(name) == (False, "s.cut.main.p3", "cut.17.0#r1")
    assert read_claim_object(answer) == (True, "s.entrypoint", "a/b")
    assert [read_claim_object(other) for other in ("", "x", "other/s/hash/id", "message/s/hash/")] == [None] * 4

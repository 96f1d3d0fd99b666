"""Names on NATS that are read back: what a node made, another process takes apart."""

import pytest

from runtime.spec import names
from runtime.spec.names import MessageId


@pytest.mark.parametrize("subject", ["s_v1_flow.entrypoint", "s_v1_flow.clean", "s_v1_flow.clean.unsure.p3"])
def test_the_source_of_a_redriven_message_can_be_read_from_its_subject(subject: str) -> None:
    redriven = names.redrive_subject("score", subject)

    assert redriven == subject.replace("s_v1_flow.", "s_v1_flow._redrive.score.")
    assert names.source_subject(redriven) == subject
    assert names.source_subject(subject) == subject


@pytest.mark.parametrize(
    ("made", "read"),
    [
        (names.message_id("score", 17, 2), MessageId("score", 17, "", 0)),
        (names.message_id("score-2", 17, 0, mark="e", redrive=3), MessageId("score-2", 17, "e", 3)),
        (names.dead_letter_id("score", 17), MessageId("score", 17, "dlq", 0)),
        (names.redrive_id("score", 17, 1), MessageId("score", 17, "in", 1)),
        (names.message_id("score-2", 17, 2, path="-0-e0r1"), MessageId("score-2", 17, "", 0, "-0-e0r1")),
    ],
)
def test_a_message_id_can_be_read_back(made: str, read: MessageId) -> None:
    assert names.read_message_id(made) == read


@pytest.mark.parametrize("text", ["", "0123abcd", "score.x.0", "score.17", "score.17.0#x"])
def test_the_id_of_somebody_else_is_not_read(text: str) -> None:
    assert names.read_message_id(text) is None


@pytest.mark.parametrize(
    ("key", "count", "partition"), [("", 16, 0), ("123456789", 2**32, 0xCBF43926), ("cam-2", 16, 10), ("ü", 16, 5)]
)
def test_the_partition_of_a_key_is_its_crc_32(key: str, count: int, partition: int) -> None:
    assert names.partition(key, count) == partition


@pytest.mark.parametrize(
    ("subject", "partition"),
    [
        ("s_v1_flow.entrypoint", "s_v1_flow.entrypoint.main.p3"),
        ("s_v1_flow.clean", "s_v1_flow.clean.main.p3"),
        ("s_v1_flow.clean.unsure", "s_v1_flow.clean.unsure.p3"),
        ("s_v1_flow._redrive.score.clean", "s_v1_flow._redrive.score.clean.main.p3"),
        ("s_v1_flow._redrive.score.clean.unsure", "s_v1_flow._redrive.score.clean.unsure.p3"),
    ],
)
def test_an_output_is_known_by_each_of_its_partitions(subject: str, partition: str) -> None:
    assert names.partition_subject(subject, 3) == partition
    assert names.partition_subject(subject, "*") == partition.replace("p3", "*")
    assert names.unpartitioned_subject(partition) == subject
    assert names.unpartitioned_subject(subject) == subject


def test_the_consumer_of_a_partition_is_known_by_its_node() -> None:
    durable = names.durable("history", ["classify", "clean.unsure"])

    partition = names.partition_durable(durable, 12)

    assert partition == "history_p12__classify__clean_unsure"
    assert names.unpartitioned_durable(partition) == durable
    assert names.unpartitioned_durable(durable) == durable
    assert names.node_of(partition) == names.node_of(durable) == "history"


def test_a_bucket_of_states_is_known_by_its_node_and_no_other_bucket_is() -> None:
    stream = names.stream("prod", "v1", "flow")

    assert names.node_of_state_bucket(stream, names.state_bucket(stream, "count")) == "count"
    assert names.node_of_state_bucket(stream, names.state_bucket(names.stream("prod", "v1", "flow-2"), "count")) == ""
    assert names.node_of_state_bucket(stream, names.attempts_bucket(stream)) == ""

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
    ],
)
def test_a_message_id_can_be_read_back(made: str, read: MessageId) -> None:
    assert names.read_message_id(made) == read


@pytest.mark.parametrize("text", ["", "0123abcd", "score.x.0", "score.17", "score.17.0#x"])
def test_the_id_of_somebody_else_is_not_read(text: str) -> None:
    assert names.read_message_id(text) is None

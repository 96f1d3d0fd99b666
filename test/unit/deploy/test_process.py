"""Restart decisions, names of replicas and the printed lines: the pure part of running processes."""

import io

import pytest

from runtime.deploy.process import LinePrinter, Process, RestartPolicy, RestartRecord, describe_exit

POLICY = RestartPolicy(
    first_delay_s=0.2, max_delay_s=30.0, healthy_after_s=30.0, crash_loop_exits=5, crash_loop_window_s=60.0
)


def test_the_delay_doubles_up_to_its_maximum() -> None:
    record = RestartRecord(POLICY)

    # 20 s apart, so that never five ends fall into one minute.
    delays_s = [record.note_exit(at_s=number * 20.0, lived_s=1.0) for number in range(10)]

    assert delays_s == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert not record.crash_looping


def test_a_process_that_lived_long_enough_starts_with_a_clean_record() -> None:
    record = RestartRecord(POLICY)
    for second in range(4):
        record.note_exit(at_s=second, lived_s=1.0)

    delay_s = record.note_exit(at_s=34.0, lived_s=30.0)

    assert delay_s == 0.2
    assert not record.crash_looping


def test_the_fifth_end_within_a_minute_is_a_crash_loop() -> None:
    record = RestartRecord(POLICY)
    looping = []

    for second in (0.0, 14.0, 28.0, 42.0, 56.0):
        delay_s = record.note_exit(at_s=second, lived_s=1.0)
        looping.append(record.crash_looping)

    assert looping == [False, False, False, False, True]
    assert delay_s == 30.0


def test_a_crash_loop_lasts_until_the_process_has_lived_long_enough() -> None:
    record = RestartRecord(POLICY)
    for second in range(5):
        record.note_exit(at_s=second, lived_s=0.1)

    assert record.note_exit(at_s=1000.0, lived_s=29.0) == 30.0
    assert record.crash_looping
    assert record.note_exit(at_s=1060.0, lived_s=30.0) == 0.2
    assert not record.crash_looping


def test_a_forgotten_record_is_a_new_one() -> None:
    record = RestartRecord(POLICY)
    for second in range(5):
        record.note_exit(at_s=second, lived_s=0.1)

    record.forget()

    assert not record.crash_looping
    assert record.note_exit(at_s=6.0, lived_s=0.1) == 0.2


def test_restarts_within_a_day_are_counted_however_long_the_process_lived_between() -> None:
    day_s = 86_400.0
    record = RestartRecord(RestartPolicy(healthy_after_s=day_s, crash_loop_exits=5, crash_loop_window_s=day_s))

    for hour in (0, 5, 10, 15):
        record.note_exit(at_s=hour * 3600.0, lived_s=5 * 3600.0)
    looping = [record.crash_looping]
    record.note_exit(at_s=20 * 3600.0, lived_s=5 * 3600.0)

    assert [*looping, record.crash_looping] == [False, True]


def test_a_single_replica_bears_the_name_of_its_process_and_several_are_numbered() -> None:
    assert Process(name="score", arguments=("node",)).replica_names() == ["score"]
    assert Process(name="score", arguments=("node",), replicas=2).replica_names() == ["score/1", "score/2"]


@pytest.mark.parametrize(
    ("exit_code", "words"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "SIGKILL"), (-99, "signal 99")]
)
def test_an_exit_is_described_in_words(exit_code: int, words: str) -> None:
    assert describe_exit(exit_code) == words


def test_lines_stand_under_padded_names() -> None:
    stream = io.StringIO()
    printer = LinePrinter(stream, ["manager", "score/1"], colour=False)

    printer("score/1", "hello")
    printer("manager", "")
    printer("stranger", "joined later")

    assert stream.getvalue() == "score/1 | hello\nmanager | \nstranger | joined later\n"


def test_names_are_padded_to_the_longest() -> None:
    stream = io.StringIO()

    LinePrinter(stream, ["a", "driver"], colour=False)("a", "text")

    assert stream.getvalue() == "a      | text\n"


def test_every_name_has_a_colour_of_its_own() -> None:
    stream = io.StringIO()
    printer = LinePrinter(stream, ["a", "b"], colour=True)

    printer("a", "text")
    printer("b", "text")

    assert stream.getvalue() == "\x1b[36ma |\x1b[0m text\n\x1b[33mb |\x1b[0m text\n"

"""Exceptions that come from another process: what somebody goes by is kept."""

import orjson
import pytest

from runtime.errors import (
    DecodeError,
    Drop,
    KrtError,
    Outcome,
    Retry,
    StoreUnavailableError,
    Wait,
    WorkerEndedError,
)
from runtime.node.dead_letters import user_traceback
from runtime.node.isolation_failures import raised, told
from runtime.node.settle import describe, names_of
from runtime.spec.node import RetryPolicy


class OfTheUser(ValueError):
    def __init__(self, code: int) -> None:
        super().__init__("code", code)
        self.code = code

    def __str__(self) -> str:
        return f"code {self.args[1]}"


class OwnRetry(Retry):
    """A class of the user's with what the runtime asks of its base."""


# As a class of another library is called that has nothing to do with ours.
NotOurs = type("DecodeError", (Exception,), {})


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def come(failure: BaseException) -> Exception:
    return raised(orjson.loads(orjson.dumps(told(failure))))


def test_a_class_of_the_runtime_comes_as_itself() -> None:
    decode = come(DecodeError("no JSON", reason="payload", request_id="r1"))
    ended = come(WorkerEndedError("gone", exit_code=-9))
    store = come(StoreUnavailableError("busy", retry_after_s=3.0))

    assert isinstance(decode, DecodeError)
    assert (str(decode), decode.reason, decode.request_id) == ("no JSON", "payload", "r1")
    assert isinstance(ended, WorkerEndedError)
    assert ended.exit_code == -9
    assert isinstance(store, StoreUnavailableError)
    assert store.retry_after_s == 3.0


@pytest.mark.parametrize("outcome", [Retry(2.5, "later"), Wait("not there", limit_s=9.0), Drop("enough")], ids=repr)
def test_an_outcome_comes_with_what_it_asks_for(outcome: Outcome) -> None:
    arrived = come(outcome)

    assert type(arrived) is type(outcome)
    assert vars(arrived) == vars(outcome)
    assert str(arrived) == str(outcome)


def test_of_a_class_of_the_users_come_the_names_and_the_text() -> None:
    arrived = come(OfTheUser(3))

    assert isinstance(arrived, ValueError)
    assert names_of(arrived) == {"OfTheUser", "ValueError"}
    assert describe(arrived) == "OfTheUser: code 3"


def test_a_class_of_the_users_on_one_of_ours_has_what_the_runtime_asks_for() -> None:
    arrived = come(OwnRetry(1.5))

    assert isinstance(arrived, Retry)
    assert (type(arrived).__name__, arrived.after_s) == ("OwnRetry", 1.5)


def test_a_class_that_is_only_called_as_one_of_ours_is_none() -> None:
    arrived = come(NotOurs("of protobuf"))

    assert not isinstance(arrived, KrtError)
    assert describe(arrived) == "DecodeError: of protobuf"


def test_a_key_error_reads_as_python_writes_it() -> None:
    arrived = come(KeyError("colour"))

    assert isinstance(arrived, KeyError)
    assert str(arrived) == "'colour'"


def test_an_exception_without_a_text_comes_all_the_same() -> None:
    assert describe(come(Unreadable())) == "Unreadable: (its text cannot be read: RuntimeError)"


def test_an_exit_is_a_failure() -> None:
    assert describe(come(SystemExit(3))) == "SystemExit: 3"


def test_arguments_that_are_no_json_are_left_behind() -> None:
    arrived = come(ValueError(object, "text"))

    assert isinstance(arrived, ValueError)
    assert "object" in str(arrived)


def test_a_dead_letter_shows_where_it_was_raised() -> None:
    try:
        raise OfTheUser(7)
    except OfTheUser as error:
        failure = error

    shown = user_traceback(come(failure))

    assert shown == user_traceback(failure)
    assert "raise OfTheUser(7)" in shown


def test_a_name_that_is_never_retried_is_known() -> None:
    assert names_of(come(OfTheUser(1))) & set(RetryPolicy(never=("OfTheUser",)).never)

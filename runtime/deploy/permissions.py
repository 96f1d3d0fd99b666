"""What each process of a workflow may do on NATS, as users of a server's configuration. Pure; derived from the plan.

| user | may |
|---|---|
| manager | make, read and purge what the workflow has on NATS, and write its configuration |
| writer | receive documents, and answer |
| node | read its own consumers, publish its own outputs and dead letters, write its own state and configuration |
| client (`krt send`, `krt driver`) | send requests, get their answers, look at the status, ask drivers and hosts |
| driver | the same, be asked, read outputs, keep tasks and positions, read by consumers of its own sinks |
| runner of algorithms | be asked for algorithms, and tell of itself |
| driver host (`krt run`, `krt driver serve`) | be asked for drivers, and see them |
| operator (`krt dlq`, `krt clean`) | all of this, and read, redrive and remove messages |

Everything else is refused: other workflows' subjects, and the inboxes on which other processes get their answers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runtime.deploy.plan import MANAGER, WRITER
from runtime.deploy.process import Process
from runtime.deploy.rights import (
    MAKE_CONSUMERS,
    asks_for_runs,
    calls_algorithms,
    calls_models,
    carries_claims,
    makes,
    owns,
    presence,
    reads,
    runs_models,
    watches,
    watches_presence,
)
from runtime.spec import names
from runtime.spec.batch import BatchSpec
from runtime.spec.claims import letter_claims_store
from runtime.spec.driver import DriverSpec
from runtime.spec.manager import ManagerSpec
from runtime.spec.node import FusedNode, NodeSpec

# Kinds of processes that send no requests to a workflow; all others, as drivers, do.
_ANSWERING = ("manager", "writer", "node", "algorithms")
# What runners of algorithms listen to.
_ASKED_OF_RUNNERS = (names.algorithm_subject("*", "*"), "$SRV.>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """What one process may publish and subscribe to; all replicas of a node are one user.

    answers: it may also answer whatever request reaches it.
    """

    process: str
    stream: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: bool = False

    @property
    def user(self) -> str:
        return f"{self.stream}.{self.process}"


def permissions(processes: Sequence[Process]) -> list[Permissions]:
    """Return the permissions of the processes of one plan, and of its client, operator and driver host."""
    manager = next(process for process in processes if process.name == MANAGER)
    spec = ManagerSpec.model_validate_json(manager.environment["KRT_MANAGER_SPEC"])
    senders = [process.name for process in processes if process.arguments[0] not in _ANSWERING]
    users = [_of(process, spec, (*senders, names.CLIENT, names.OPERATOR)) for process in processes]
    return [
        *users,
        new_user(names.CLIENT, spec.stream, _ask(spec), subscribe=_hears_of_runs(spec)),
        _host(spec),
        _operator(spec),
    ]


def server_configuration(users: Sequence[Permissions], passwords: Mapping[str, str] | None = None) -> str:
    """Return users for the configuration file of a NATS server.

    passwords: by user. Without them the text refers to variables, which the server looks for in its environment.
    """
    lines = ["authorization {", "  users = ["]
    for user in users:
        password = json.dumps(passwords[user.user]) if passwords else f"${password_variable(user)}"
        lines += _user_lines(user, password)
    return "\n".join([*lines, "  ]", "}", ""])


def password_variable(user: Permissions) -> str:
    """Return the variable that holds a user's password, e.g. `PASSWORD_local_dev_hello_krt_manager`."""
    return "PASSWORD_" + "".join(char if char.isalnum() else "_" for char in user.user)


def _user_lines(user: Permissions, password: str) -> list[str]:
    lines = [
        "    {",
        f"      user: {json.dumps(user.user)}, password: {password}",
        "      permissions: {",
        *_allow_lines("publish", user.publish),
        *_allow_lines("subscribe", user.subscribe),
    ]
    # More than one: a writer repeats an answer that may have been lost.
    answers = ['        allow_responses: {max: 2, expires: "5m"}'] if user.answers else []
    return [*lines, *answers, "      }", "    }"]


def _allow_lines(action: str, subjects: Sequence[str]) -> list[str]:
    allowed = [f"          {json.dumps(subject)}" for subject in subjects]
    return [f"        {action}: {{allow: [", *allowed, "        ]}"]


# --- users ---


def _of(process: Process, spec: ManagerSpec, senders: Sequence[str]) -> Permissions:
    """senders: processes that send requests, and whom nodes answer."""
    if process.name == MANAGER:
        return new_user(MANAGER, spec.stream, [*_manager(spec), *presence(spec.stream, names.MANAGER)])
    if process.name == WRITER:
        subject = process.environment["KRT_NATS_MONGO_WRITER"]
        announced = presence(spec.stream, names.WRITER)
        return new_user(WRITER, spec.stream, announced, subscribe=[subject], answers=True)
    if process.arguments == ("algorithms",):
        return _runner(process, spec)
    if process.name in senders:
        return _driver(process, spec)
    allowed = _node(process.name, process.environment, senders)
    asked = [names.cancel_subject(spec.stream)]
    node = NodeSpec.model_validate_json(process.environment["KRT_NODE_SPEC"])
    asked += [names.run_subject(spec.stream, "*", action) for action in ("cancel", "store") if node.batch]
    return new_user(process.name, spec.stream, allowed, subscribe=asked, answers=node.batch is not None)


def _driver(process: Process, spec: ManagerSpec) -> Permissions:
    """Return what any class of driver may use."""
    driver = DriverSpec.model_validate_json(process.environment["KRT_DRIVER_SPEC"])
    stream = spec.stream
    allowed = [*_ask(spec), *presence(stream, names.DRIVER), names.dead_letter_subject(stream, driver.ref)]
    allowed += carries_claims(letter_claims_store(stream))
    allowed += [f"$JS.API.{operation}.{stream}.>" for operation in (*MAKE_CONSUMERS, "CONSUMER.MSG.NEXT")]
    allowed += [*reads(stream), f"$JS.API.CONSUMER.CREATE.{stream}"]
    allowed += [
        f"$JS.ACK.{stream}.{names.sink_durable(driver.ref, sink)}.>" for sink in driver.arguments.get("sinks", ())
    ]
    for bucket in (names.tasks_bucket(stream), names.positions_bucket(stream)):
        allowed += [*makes(f"KV_{bucket}"), f"$KV.{bucket}.>", *watches(f"KV_{bucket}")]
    asked = [names.driver_subject(stream, "*", ">"), *_hears_of_runs(spec)]
    if driver.arguments.get("algorithms"):
        allowed += calls_algorithms()
    if driver.arguments.get("algorithm_hosts"):  # each is a runner, of which the driver makes up the name
        allowed += _serves_algorithms("*")
        asked += _ASKED_OF_RUNNERS
    return new_user(process.name, stream, allowed, subscribe=asked, answers=True)


def _runner(process: Process, spec: ManagerSpec) -> Permissions:
    allowed = _serves_algorithms(process.environment["KRT_RUNNER_NAME"])
    return new_user(process.name, spec.stream, allowed, subscribe=_ASKED_OF_RUNNERS, answers=True)


def _serves_algorithms(runner: str) -> list[str]:
    """Return what a runner of this name takes; `*` is any."""
    bucket = names.ALGORITHMS_BUCKET
    keeps = [*makes(f"KV_{bucket}"), *watches(f"KV_{bucket}"), f"$KV.{bucket}.>"]
    # It asks runners that offer the same names for their signatures.
    return [*presence(runner, names.ALGORITHM), *calls_algorithms(), *keeps]


def _host(spec: ManagerSpec) -> Permissions:
    allowed = [*watches_presence(), f"$KV.{names.PRESENCE_BUCKET}.{names.DRIVER}.{spec.stream}.>"]
    allowed += [f"$JS.API.STREAM.INFO.{spec.stream}"]
    asked = names.driver_host_subject(spec.stream, "*")
    return new_user(names.DRIVER_HOST, spec.stream, allowed, subscribe=[asked], answers=True)


def _operator(spec: ManagerSpec) -> Permissions:
    streams = [spec.stream, *_dead_letters(spec)]
    publish = [*_ask(spec), *_manager(spec), "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES"]
    for stream in streams:
        publish += [f"{stream}.>", f"$JS.API.CONSUMER.MSG.NEXT.{stream}.*", f"$JS.ACK.{stream}.>"]
    for bucket in _buckets(spec):
        stream = f"KV_{bucket}"
        publish += [f"$KV.{bucket}.>", f"$JS.API.STREAM.DELETE.{stream}", *watches(stream)]
        publish += [f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>"]
    publish += [f"$JS.API.STREAM.DELETE.OBJ_{store.name}" for store in spec.object_stores]
    return new_user(names.OPERATOR, spec.stream, publish, subscribe=_hears_of_runs(spec))


def new_user(
    process: str, stream: str, publish: Iterable[str], *, subscribe: Iterable[str] = (), answers: bool = False
) -> Permissions:
    """Return a user that also gets its own answers, and nobody else's."""
    inbox = f"{names.inbox_prefix(stream, process)}.>"
    allowed = tuple(dict.fromkeys(publish))
    return Permissions(process=process, stream=stream, publish=allowed, subscribe=(*subscribe, inbox), answers=answers)


def _manager(spec: ManagerSpec) -> list[str]:
    owned = [spec.stream, *_dead_letters(spec), *(f"OBJ_{store.name}" for store in spec.object_stores)]
    allowed = [subject for stream in owned for subject in owns(stream)]
    allowed += [subject for bucket in _buckets(spec) for subject in makes(f"KV_{bucket}")]
    # Not into the bucket of the project, whose name holds no workflow: it belongs to all workflows of the version.
    allowed += [f"$KV.{bucket}.>" for bucket in _buckets(spec) if spec.stream in bucket]
    # It reads which message a payload belongs to, and what there is of them.
    read = [spec.stream, f"OBJ_{spec.claims.store}"] if spec.claims else []
    allowed += [f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>" for stream in read]
    return [*allowed, *(f"$O.{store.name}.>" for store in spec.object_stores)]


def _node(node: str, environment: Mapping[str, str], senders: Sequence[str]) -> list[str]:
    stream, output = environment["KRT_NATS_STREAM"], environment["KRT_NATS_OUTPUT"]
    spec = NodeSpec.model_validate_json(environment["KRT_NODE_SPEC"])
    allowed = [output, f"{output}.>", names.dead_letter_subject(stream, node), environment["KRT_NATS_MONGO_WRITER"]]
    # A node answers the caller itself: at the end of the workflow, or early.
    allowed += [f"{names.inbox_prefix(stream, sender)}.>" for sender in senders]
    allowed += [f"$JS.API.STREAM.INFO.{stream}"]
    for durable in _durables(spec):
        allowed += [f"$JS.API.CONSUMER.{operation}.{stream}.{durable}" for operation in ("INFO", "MSG.NEXT")]
        allowed += [f"$JS.ACK.{stream}.{durable}.>"]
    scopes = {scope: environment[f"KRT_NATS_KEY_VALUE_STORE_{scope}"] for scope in ("PROJECT", "WORKFLOW", "NODE")}
    own = [names.attempts_bucket(stream), scopes["WORKFLOW"], scopes["NODE"]]
    own += [kept.bucket for kept in (spec.state, spec.join) if kept]
    # The project's values belong to every workflow of the version: a node reads them.
    allowed += [subject for bucket in (*own, scopes["PROJECT"]) for subject in reads(f"KV_{bucket}")]
    allowed += [f"$KV.{bucket}.>" for bucket in own]
    if store := environment.get("KRT_NATS_OBJECT_STORE", ""):
        allowed += [*owns(f"OBJ_{store}"), f"$O.{store}.>"]
    for store in (spec.claims.store, letter_claims_store(stream)) if spec.claims else ():
        allowed += carries_claims(store)
    for behind in spec.behind:
        allowed += _fused(stream, behind)
    allowed += calls_models(spec.models.cluster) if spec.models else []
    allowed += calls_algorithms() if spec.dispatch else []
    allowed += _runs_models(stream, node, spec.batch) if spec.batch else []
    return [*allowed, *presence(stream, names.NODE, node)]


def _fused(stream: str, node: FusedNode) -> list[str]:
    """Return what a node behind the first one of its chain needs on top, in the process of that one."""
    allowed = [node.output, f"{node.output}.>", names.dead_letter_subject(stream, node.node)]
    allowed += [*reads(f"KV_{node.configuration}"), f"$KV.{node.configuration}.>"]
    if node.object_store:
        allowed += [*owns(f"OBJ_{node.object_store}"), f"$O.{node.object_store}.>"]
    return [*allowed, *presence(stream, names.NODE, node.node)]


def _runs_models(stream: str, node: str, spec: BatchSpec) -> list[str]:
    store = f"{stream}_{spec.object_store}"
    kept = [*owns(f"OBJ_{store}"), f"$O.{store}.>"] if spec.object_store else []
    return [*runs_models(stream, node), *kept]


def _durables(spec: NodeSpec) -> list[str]:
    """Return the node's consumer, or those of its partitions."""
    if spec.partitions is None:
        return [spec.durable]
    return [names.partition_durable(spec.durable, number) for number in range(spec.partitions)]


def _ask(spec: ManagerSpec) -> list[str]:
    """Return what sending requests and looking at the status takes."""
    entrypoint = names.entrypoint_subject(spec.stream)
    streams = [spec.stream, *_dead_letters(spec)]
    looks = [f"$JS.API.{operation}.{stream}" for stream in streams for operation in ("STREAM.INFO", "CONSUMER.LIST")]
    asks = [names.driver_host_subject(spec.stream, "*"), names.driver_subject(spec.stream, "*", ">")]
    asks += _asks_for_runs(spec) if _has_runs(spec) else []
    asks += carries_claims(spec.claims.store) if spec.claims else []
    return [entrypoint, f"{entrypoint}.>", names.cancel_subject(spec.stream), *looks, *asks, *watches_presence()]


def _has_runs(spec: ManagerSpec) -> bool:
    return names.runs_bucket(spec.stream) in spec.aging_buckets


def _hears_of_runs(spec: ManagerSpec) -> list[str]:
    actions = ("event", "log", "start") if _has_runs(spec) else ()
    return [names.run_subject(spec.stream, "*", action) for action in actions]


def _asks_for_runs(spec: ManagerSpec) -> list[str]:
    """Return what requests for runs, their records and their artifacts take."""
    submitted = f"{spec.stream}.{names.REDRIVE}.>"
    kept = [f"OBJ_{store.name}" for store in spec.object_stores]
    fetched = [subject for store in kept for subject in (*reads(store), *watches(store))]
    return [submitted, *asks_for_runs(spec.stream), *fetched]


# --- what they are made of ---


def _buckets(spec: ManagerSpec) -> list[str]:
    return [*spec.buckets, *spec.aging_buckets, spec.applied_bucket]


def _dead_letters(spec: ManagerSpec) -> list[str]:
    return [spec.dead_letters.stream] if spec.dead_letters else []

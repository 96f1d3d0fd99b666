"""`krt runs` on a real server: what it asks for, prints, fetches, and ends with."""

import asyncio
import hashlib
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.batch.artifact_stores import open_store
from runtime.batch.artifacts import artifact_key
from runtime.batch.records import Kept, RunRecords
from runtime.batch.run import Artifact, Locations, Reason, RunEvent, RunRecord, RunState, Times
from runtime.bus.base import Bus, ConsumerConfig, StreamConfig
from runtime.bus.embedded import EmbeddedServer
from runtime.bus.nats import NatsBus
from runtime.bus.object_store import ObjectStoreConfig
from runtime.bus.presence import Heartbeat, ServiceRecord
from runtime.cli import exits
from runtime.cli.main import main
from runtime.clock import SystemClock
from runtime.errors import BusUnavailableError, NoRespondersError
from runtime.spec import names

STREAM = "test_v1_flow"
ENTRYPOINT = names.entrypoint_subject(STREAM)
NODE = "sir"
RESULTS = "simulation-runs/abc"
PATIENCE_S = 20.0
# A file of several pieces, and names that are no words.
FILES = {
    "output/data.json": b'{"infected": 7}',
    "output/big curve\xe9.bin".encode("latin-1").decode("latin-1"): bytes(range(256)) * 12_000,
    "log/stdout.log": b"day 1\nday 2 \xff\n",
    "log/stderr.log": b"careful\n",
}


@dataclass(frozen=True, slots=True)
class Krt:
    """Runs commands in this process, against one stream."""

    url: str
    monkeypatch: pytest.MonkeyPatch
    capfdbinary: pytest.CaptureFixture[bytes]

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        given = ["krt", "runs", *arguments, "--nats", self.url, "--stream", STREAM]
        self.monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self.capfdbinary.readouterr()
        out, err = (text.decode(errors="surrogateescape") for text in (printed.out, printed.err))
        return int(ended.value.code or 0), out, err

    @asynccontextmanager
    async def place(self) -> AsyncIterator["Place"]:
        bus = await NatsBus.connect([self.url], name="prepare")
        try:
            yield Place(bus, RunRecords(bus, STREAM, SystemClock()))
        finally:
            await bus.close()

    def prepare(self, step: Callable[["Place"], Coroutine[Any, Any, None]]) -> None:
        """Do something before, or between, commands."""

        async def run() -> None:
            async with self.place() as place:
                await step(place)

        asyncio.run(run())

    @contextmanager
    def beside(self, step: Callable[["Place", asyncio.Event], Coroutine[Any, Any, None]]) -> Iterator[None]:
        """Do something while a command runs: the step sets the event when the command may begin."""
        ready = threading.Event()
        failures: list[BaseException] = []

        async def run() -> None:
            began = asyncio.Event()
            async with self.place() as place, asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE_S):
                group.create_task(step(place, began))
                await began.wait()
                ready.set()

        def keep() -> None:
            try:
                asyncio.run(run())
            except BaseException as error:
                failures.append(error)
                ready.set()

        thread = threading.Thread(target=keep)
        thread.start()
        assert ready.wait(PATIENCE_S)
        yield
        thread.join(PATIENCE_S)
        assert failures == []


@dataclass(frozen=True, slots=True)
class Place:
    """A workflow with a node of kind batch, as far as commands see it."""

    bus: Bus
    records: RunRecords

    async def deploy(self) -> None:
        await self.bus.ensure_stream(StreamConfig(name=STREAM, subjects=(f"{STREAM}.>",), storage="memory"))
        await self.bus.ensure_consumer(self.consumer)
        await self.bus.key_value(names.runs_bucket(STREAM), create=True)
        await self.bus.ensure_object_store(ObjectStoreConfig(name=f"{STREAM}_runs"))

    @property
    def consumer(self) -> ConsumerConfig:
        subjects = (ENTRYPOINT, names.redrive_subject(NODE, ENTRYPOINT))
        return ConsumerConfig(stream=STREAM, durable=names.durable(NODE, ["entrypoint"]), filter_subjects=subjects)

    async def begin(self, number: int, *, age_ms: int = 0) -> Kept:
        """Write a run that is running."""
        now_ms = self.records.now_ms()
        record = RunRecord(
            run_id=f"r{number}_{NODE}_0",
            id=f"r{number}",
            node=NODE,
            slug="sir-model",
            times=Times(created=now_ms - age_ms),
        )
        kept = await self.records.create(record)
        for event in (RunEvent.TAKE, RunEvent.START):
            kept = await self.records.change(kept, kept.record.after(event, now_ms))
        return kept

    async def end(self, kept: Kept, reason: Reason | None = None, detail: str = "") -> Kept:
        now_ms = self.records.now_ms()
        if kept.record.state is RunState.RUNNING:
            kept = await self.records.change(kept, kept.record.after(RunEvent.END, now_ms))
        return await self.records.change(kept, kept.record.ended(reason, detail, now_ms))

    async def store(self, kept: Kept) -> Kept:
        """Store the files of a run as its worker does."""
        store = await open_store("nats:runs", bus=self.bus, stream=STREAM)
        found = tuple(_artifact(path, content) for path, content in FILES.items())
        for each in found:
            key = artifact_key(RESULTS, each.visibility, each.path)
            await store.put(key, _pieces(FILES[each.path]), size=each.size, sha256=each.sha256)
        locations = Locations(store="nats:runs", results=RESULTS)
        return await self.records.change(kept, kept.record.with_artifacts(found).changed(locations=locations))


def _artifact(path: str, content: bytes) -> Artifact:
    digest = hashlib.sha256(content).hexdigest()
    visibility = "public" if path == "output/data.json" else "private"
    return Artifact.model_validate({"path": path, "size": len(content), "sha256": digest, "visibility": visibility})


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


@pytest.fixture
def krt(nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Krt:
    krt = Krt(nats_server.url, monkeypatch, capfdbinary)
    krt.prepare(Place.deploy)
    return krt


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder for what is fetched; that of the server is beside it."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


async def one_complete(place: Place) -> None:
    await place.end(await place.store(await place.begin(1)))


# --- submit ---


def test_a_request_is_stored_and_the_ids_of_its_runs_are_printed(krt: Krt, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text('{"id": "mine", "models": [{"slug": "a"}, {"slug": "b"}], "configuration": {"r0": 2}}')

    code, out, _ = krt("submit", f"flow/{NODE}", str(file), "--id", "r1")

    assert (code, out) == (exits.OK, f"r1_{NODE}_0\nr1_{NODE}_1\n")


def test_the_only_batch_node_needs_no_name(krt: Krt, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text("{}")

    async def live(place: Place, began: asyncio.Event) -> None:
        record = ServiceRecord.of_this_process(names.BATCH, NODE)
        key = names.presence_key(names.BATCH, STREAM, NODE, record.instance)
        async with Heartbeat(place.bus, names.PRESENCE_BUCKET, key, lambda: record, SystemClock()) as heartbeat:
            await heartbeat.beat()
            reader = place.bus.reader(place.consumer, create=False)
            await reader.start()
            began.set()
            reader.ack(await reader.take())
            await reader.close()

    nobody = krt("submit", "flow", str(file))
    with krt.beside(live):
        code, out, _ = krt("submit", "flow", str(file), "--id", "r1")

    assert nobody == (exits.CONFIG, "", "name the batch node, as WORKFLOW/NODE: no worker of one is alive\n")
    assert (code, out) == (exits.OK, f"r1_{NODE}_0\n")


def test_waiting_tells_every_state_and_prints_the_results(krt: Krt, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text("{}")

    async def work(place: Place, began: asyncio.Event) -> None:
        reader = place.bus.reader(place.consumer, create=False)
        await reader.start()
        began.set()
        reader.ack(await reader.take())
        await place.end(await place.begin(1), Reason.EXIT_CODE, "exit code 3")
        await reader.close()

    with krt.beside(work):
        code, out, err = krt("submit", f"flow/{NODE}", str(file), "--id", "r1", "--wait")

    result = json.loads(out)
    assert code == exits.FAILED
    assert (result["status"], result["reason"], result["runId"]) == ("failed", "EXIT_CODE", f"r1_{NODE}_0")
    assert err.splitlines()[-1] == f"r1_{NODE}_0  failed: EXIT_CODE, exit code 3"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[1]", "the payload is list, and has to be an object"),
        ("{", "the payload is no JSON"),
        ('{"configuration": {}, "models": []}', '"models" has to be a list of 1 to'),
    ],
)
def test_an_invalid_request_is_refused(krt: Krt, tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "job.json"
    file.write_text(text)

    code, out, err = krt("submit", f"flow/{NODE}", str(file))

    assert (code, out) == (exits.INVALID, "")
    assert fault in err


def test_a_file_or_node_that_is_not_there_is_named(krt: Krt, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text("{}")

    assert krt("submit", f"flow/{NODE}", str(tmp_path / "none.json"))[0] == exits.CONFIG
    code, _, err = krt("submit", "flow/other", str(file))

    assert code == exits.FAILED
    assert 'no node "other"' in err


# --- looking ---


async def three_runs(place: Place) -> None:
    await place.end(await place.begin(1, age_ms=3_600_000))
    await place.end(await place.begin(2, age_ms=60_000), Reason.OUT_OF_MEMORY, "more than 2Gi")
    await place.begin(3)


def test_runs_are_listed_the_newest_first(krt: Krt) -> None:
    krt.prepare(three_runs)

    code, out, _ = krt("ls")

    heading, *rows = [line.split() for line in out.splitlines()]
    assert code == exits.OK
    assert heading == ["RUN", "NODE", "MODEL", "STATE", "AGE", "RAN", "WHY"]
    assert [row[:4] for row in rows] == [
        ["r3_sir_0", "sir", "sir-model", "running"],
        ["r2_sir_0", "sir", "sir-model", "failed"],
        ["r1_sir_0", "sir", "sir-model", "complete"],
    ]
    assert (rows[1][4], rows[1][-1]) == ("60s", "OUT_OF_MEMORY")


def test_lists_are_narrowed_and_say_what_they_leave_out(krt: Krt) -> None:
    krt.prepare(three_runs)

    _, failed, _ = krt("ls", "--state", "failed", "--json")
    _, newest, more = krt("ls", "--limit", "1")
    none = krt("ls", "--node", "other")
    wrong = krt("ls", "--state", "broken")

    assert [json.loads(line)["runId"] for line in failed.splitlines()] == ["r2_sir_0"]
    assert (len(newest.splitlines()), more) == (2, "2 more, older ones; --limit 0 lists all\n")
    assert none == (exits.OK, "there are no such runs\n", "")
    assert wrong[0] == exits.CONFIG


@pytest.mark.timeout(120)
def test_ten_thousand_runs_are_listed_in_about_a_second(krt: Krt) -> None:
    async def many(place: Place) -> None:
        bucket = await place.bus.key_value(names.runs_bucket(STREAM))
        done = (await place.end(await place.begin(0))).record
        records = [done.changed(run_id=f"n{number}_{NODE}_0") for number in range(10_000)]
        for start in range(0, len(records), 500):
            part = records[start : start + 500]
            await asyncio.gather(*(bucket.put(record.run_id, record.encode()) for record in part))

    krt.prepare(many)
    krt("ls", "--limit", "1")  # imports

    started_s = time.process_time()
    _, out, _ = krt("ls", "--limit", "0")
    took_s = time.process_time() - started_s

    assert len(out.splitlines()) == 10_002
    # Of this process alone; it takes 1 s on a machine that does nothing else.
    assert took_s < 3.0


def test_a_run_is_shown_with_all_that_is_known(krt: Krt) -> None:
    krt.prepare(one_complete)

    code, out, _ = krt("show", "r1_sir_0")
    _, record, _ = krt("show", "r1_sir_0", "--json")

    facts = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert code == exits.OK
    assert (facts["state"], facts["model"], facts["results"]) == ("complete", "sir-model", f"nats:runs/{RESULTS}")
    assert json.loads(record)["state"] == "complete"


@pytest.mark.parametrize("command", ["show", "logs", "cancel", "artifacts", "download", "retry-store"])
def test_a_run_that_is_not_there_is_an_error_of_every_command(krt: Krt, command: str) -> None:
    missing = (exits.FAILED, "", "krt: there is no run 'r9_sir_0'; `krt runs ls` shows those that there are\n")

    assert krt(command, "r9_sir_0") == missing


# --- logs ---


def test_the_log_of_a_run_that_has_ended_is_printed_byte_by_byte(krt: Krt) -> None:
    krt.prepare(one_complete)

    code, out, err = krt("logs", "r1_sir_0")

    assert (code, out.encode(errors="surrogateescape"), err) == (exits.OK, FILES["log/stdout.log"], "careful\n")


def test_a_run_is_followed_until_it_has_ended(krt: Krt) -> None:
    async def write(place: Place, began: asyncio.Event) -> None:
        kept = await place.begin(1)
        began.set()
        await _until_heard(place, kept.record.run_id)
        for stream, piece in (("stdout", b"one\n"), ("stderr", b"oh\n"), ("stdout", b"two \xff\n")):
            place.records.tell_output(kept.record.run_id, stream, piece)
        await place.end(kept)

    with krt.beside(write):
        code, out, err = krt("logs", "r1_sir_0", "-f")

    assert code == exits.OK
    assert out.encode(errors="surrogateescape") == b"one\ntwo \xff\n"
    assert err == "oh\nr1_sir_0  complete\n"


async def _until_heard(place: Place, run_id: str) -> None:
    """Return when somebody listens to the output of a run; the server tells at once when nobody does."""
    for _ in range(500):
        try:
            await place.bus.request(names.run_subject(STREAM, run_id, "log"), b"", timeout_s=0.2)
        except NoRespondersError:
            await asyncio.sleep(0.02)
        except BusUnavailableError:  # heard, and not answered
            return
    raise AssertionError("nobody listens")


def test_a_run_that_goes_on_has_no_log_without_following(krt: Krt) -> None:
    async def running(place: Place) -> None:
        await place.begin(1)

    krt.prepare(running)

    code, _, err = krt("logs", "r1_sir_0")

    assert (code, err) == (
        exits.FAILED, "krt: run 'r1_sir_0' has not ended, and its log is not stored yet; follow it by -f\n",
    )  # fmt: skip


# --- cancelling ---


def test_a_run_that_nobody_has_is_cancelled_at_once(krt: Krt) -> None:
    async def running(place: Place) -> None:
        await place.begin(1)

    krt.prepare(running)

    code, _, err = krt("cancel", "r1_sir_0")
    again = krt("cancel", "r1_sir_0")

    assert code == exits.OK
    assert err.startswith("r1_sir_0  cancelled: CANCELLED")
    assert again == (exits.FAILED, "", "krt: run 'r1_sir_0' has ended: it is cancelled\n")


def test_cancelling_waits_for_the_worker_to_end_the_run(krt: Krt) -> None:
    async def work(place: Place, began: asyncio.Event) -> None:
        kept = await place.begin(1)
        kept = await place.records.change(kept, kept.record.changed(owner="here/1/1"))
        asked = asyncio.Event()
        listening = await place.records.answer_cancel(kept.record.run_id, asked.set)
        began.set()
        await asked.wait()
        await place.end(kept, Reason.CANCELLED, "cancelled while it ran")
        await listening.unsubscribe()

    with krt.beside(work):
        code, _, err = krt("cancel", "r1_sir_0")

    assert code == exits.OK
    assert err.splitlines()[-1] == "r1_sir_0  cancelled: CANCELLED, cancelled while it ran"


# --- files ---


def test_the_files_of_a_run_are_listed(krt: Krt) -> None:
    krt.prepare(one_complete)

    code, out, _ = krt("artifacts", "r1_sir_0")
    _, lines, _ = krt("artifacts", "r1_sir_0", "--json")

    assert code == exits.OK
    assert out.splitlines()[-1].split()[:4] == ["output/data.json", "15", "B", "public"]
    listed = {each["path"]: each["sha256"] for each in map(json.loads, lines.splitlines())}
    assert listed == {path: hashlib.sha256(content).hexdigest() for path, content in FILES.items()}


def test_files_beyond_those_of_the_record_are_found_in_the_store(krt: Krt) -> None:
    async def cut(place: Place) -> None:
        kept = await place.end(await place.store(await place.begin(1)))
        await place.records.change(kept, kept.record.changed(artifacts=kept.record.artifacts[:1], left_out=3))

    krt.prepare(cut)

    _, lines, _ = krt("artifacts", "r1_sir_0", "--json")

    assert {json.loads(line)["path"] for line in lines.splitlines()} == FILES.keys()


def test_a_run_is_downloaded_as_a_whole_and_only_once(krt: Krt, place: Path) -> None:
    krt.prepare(one_complete)

    code, out, _ = krt("download", "r1_sir_0", "-o", str(place / "here"))
    (place / "here" / "output" / "data.json").write_bytes(b"altered by hand")
    _, again, _ = krt("download", "r1_sir_0", "-o", str(place / "here"))

    found = {path.relative_to(place / "here").as_posix(): path.read_bytes() for path in _files(place / "here")}
    assert (code, len(out.splitlines())) == (exits.OK, len(FILES))
    assert found == FILES
    assert [line.endswith("(was there)") for line in sorted(again.splitlines())] == [True, True, True, False]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("wanted", "fetched"),
    [
        ("output/data.json", {"output/data.json"}),
        ("log", {"log/stdout.log", "log/stderr.log"}),
        ("*.log", {"log/stdout.log", "log/stderr.log"}),
    ],
)
def test_some_files_are_chosen(krt: Krt, place: Path, wanted: str, fetched: set[str]) -> None:
    krt.prepare(one_complete)

    krt("download", "r1_sir_0", wanted, "-o", str(place))

    assert {path.relative_to(place).as_posix() for path in _files(place)} == fetched


def test_a_file_that_nothing_fits_is_told(krt: Krt, place: Path) -> None:
    krt.prepare(one_complete)

    code, _, err = krt("download", "r1_sir_0", "output/none", "-o", str(place))

    assert (code, list(place.iterdir())) == (exits.FAILED, [])
    assert "no file fits 'output/none'" in err


def test_a_file_that_is_damaged_is_not_left_behind(krt: Krt, place: Path) -> None:
    async def damage(place: Place) -> None:
        await one_complete(place)
        store = await place.bus.object_store(f"{STREAM}_runs")
        await store.put(f"{RESULTS}/public/output/data.json", b'{"infected": 8}')

    krt.prepare(damage)

    code, _, err = krt("download", "r1_sir_0", "output/data.json", "-o", str(place))

    assert (code, _files(place)) == (exits.FAILED, [])
    assert "not what" in err


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", "output/../../outside"])
def test_a_path_that_leads_out_of_the_folder_is_refused(krt: Krt, place: Path, path: str) -> None:
    async def tamper(place: Place) -> None:
        kept = await place.end(await place.store(await place.begin(1)))
        stray = _artifact(path, b"stray")
        await place.records.change(kept, kept.record.changed(artifacts=(*kept.record.artifacts, stray)))

    krt.prepare(tamper)

    code, out, err = krt("download", "r1_sir_0", "-o", str(place / "here"))

    assert (code, out, list(place.iterdir())) == (exits.CONFIG, "", [])
    assert "leads out of" in err


def test_a_link_in_the_folder_is_not_followed_out_of_it(krt: Krt, place: Path) -> None:
    krt.prepare(one_complete)
    (place / "here").mkdir()
    (place / "elsewhere").mkdir()
    (place / "here" / "output").symlink_to(place / "elsewhere")

    code, _, err = krt("download", "r1_sir_0", "output/data.json", "-o", str(place / "here"))

    assert (code, _files(place / "elsewhere")) == (exits.CONFIG, [])
    assert "leads out of" in err


def test_a_run_without_files_says_so(krt: Krt) -> None:
    async def invalid(place: Place) -> None:
        await place.begin(1)

    krt.prepare(invalid)

    assert krt("artifacts", "r1_sir_0") == (
        exits.FAILED, "", "krt: run 'r1_sir_0' has stored no files: it is running\n",
    )  # fmt: skip


# --- storing again ---


def test_storing_again_waits_for_the_end_of_it(krt: Krt) -> None:
    async def work(place: Place, began: asyncio.Event) -> None:
        kept = await place.end(await place.begin(1), Reason.STORE_FAILED, "the store is away")
        asked = asyncio.Event()
        listening = await place.records.answer_store(lambda _: True, lambda _: asked.set())
        began.set()
        await asked.wait()
        now_ms = place.records.now_ms()
        again = kept.record.after(RunEvent.STORE_AGAIN, now_ms, reason=None, detail="")
        await place.end(await place.records.change(kept, again))
        await listening.unsubscribe()

    with krt.beside(work):
        code, _, err = krt("retry-store", "r1_sir_0")

    assert (code, err) == (exits.OK, "r1_sir_0  complete\n")


def test_storing_again_tells_that_no_worker_has_the_files(krt: Krt) -> None:
    async def failed(place: Place) -> None:
        await place.end(await place.begin(1), Reason.STORE_FAILED, "the store is away")

    krt.prepare(failed)

    code, _, err = krt("retry-store", "r1_sir_0")

    assert code == exits.UNAVAILABLE
    assert "no worker has the files of run 'r1_sir_0'" in err


def test_there_is_nothing_to_store_again_of_a_complete_run(krt: Krt) -> None:
    krt.prepare(one_complete)

    assert krt("retry-store", "r1_sir_0")[0] == exits.FAILED

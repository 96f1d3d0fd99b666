"""Runners that come, go, die and contradict each other, over a real nats-server."""

import asyncio
import json
import time
from pathlib import Path

from runtime.bus.embedded import EmbeddedServer
from runtime.bus.presence import EXPIRY_S
from test.support.algorithms import Bench, RunnerChild, open_bench
from test.support.ports import free_port

BLOCKING = """
import os, pathlib, time

HERE = pathlib.Path(__file__).parent

def run_pid():
    return os.getpid()

def run_hold(n: int):
    while not (HERE / "free").exists():
        time.sleep(0.01)
    return n
"""


async def test_a_runner_killed_in_mid_call_costs_one_presence_expiry(bench: Bench) -> None:
    runner = await bench.start(BLOCKING)
    call = asyncio.ensure_future(bench.client.run("hold", {"n": 1}, timeout=60))
    await bench.until_stats("hold", running=1)
    killed = time.monotonic()

    runner.kill()
    error = await bench.fails(call)

    assert error.outcome == "unavailable" and "has gone before it has answered" in error.detail
    assert time.monotonic() - killed < EXPIRY_S + 3
    assert await bench.client.list() == {}


async def test_a_stopped_runner_disappears_at_once_and_finishes_its_calls(bench: Bench) -> None:
    runner = await bench.start(BLOCKING)
    call = asyncio.ensure_future(bench.client.run("hold", {"n": 1}, timeout=60))
    await bench.until_stats("hold", running=1)

    runner.terminate()
    await bench.until(lambda served: not served)
    assert not call.done()
    (bench.folder / "images" / "free").touch()

    assert await call == 1
    assert await runner.exit_code() == 0


async def test_what_is_left_at_the_end_of_the_grace_time_is_unavailable(bench: Bench) -> None:
    runner = await bench.start(BLOCKING, SHUTDOWN_GRACE="0.2")
    calls = [asyncio.ensure_future(bench.client.run("hold", {"n": n}, timeout=60)) for n in (1, 2)]
    await bench.until_stats("hold", running=1)

    runner.terminate()

    for call in calls:
        error = await bench.fails(call)
        assert (error.outcome, error.detail) == ("unavailable", "runner images has stopped")
    assert await runner.exit_code() == 0


async def test_replicas_share_the_calls(bench: Bench) -> None:
    for _ in range(2):
        await bench.start(BLOCKING)
    await bench.until(lambda served: "pid" in served)

    pids = [await bench.client.run("pid") for _ in range(40)]

    assert len(set(pids)) == 2
    assert len((await bench.client.list())["pid"].instances) == 2


async def test_runners_of_two_names_may_share_one_signature(bench: Bench) -> None:
    await bench.start(BLOCKING, "first")
    second = await bench.start(BLOCKING, "second")

    assert (await bench.client.wait("pid", timeout=10)).runners in (("first",), ("first", "second"))
    assert "runner first serves pid, too: they share the calls" in second.log()


async def test_a_second_signature_is_refused_by_name(bench: Bench) -> None:
    await bench.start("def run_ocr(url: str): return 'first'", "first")

    second = bench.launch("def run_ocr(url: int): return 'second'\ndef run_other(): ...", "second")

    assert await second.exit_code() == 2
    assert 'algorithm "ocr" is served by runner first' in second.log()
    assert 'request.properties.url.type is "integer" here and "string" there' in second.log()
    assert "start with --replace" in second.log()
    assert {await bench.client.run("ocr", {"url": "x"}) for _ in range(10)} == {"first"}
    assert set(await bench.client.list()) == {"ocr"}


async def test_of_two_that_start_at_once_exactly_one_wins(bench: Bench) -> None:
    runners = [bench.launch(f"def run_ocr(url: {kind}): return '{kind}'", kind) for kind in ("str", "int", "float")]

    await bench.client.wait("ocr", timeout=20)
    ended = [asyncio.ensure_future(runner.exit_code()) for runner in runners]
    done: set[asyncio.Future[int]] = set()
    async with asyncio.timeout(20):
        while len(done) < 2:
            done, _ = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)

    assert [task.result() for task in done] == [2, 2]
    [winner] = [runner for runner in runners if runner.process.poll() is None]
    await bench.until(lambda served: served == {"ocr"})
    kind = await bench.client.run("ocr", {"url": 1} if "int" in str(winner.log_file) else {"url": "1"})
    assert kind in str(winner.log_file)
    winner.terminate()
    await asyncio.gather(*ended)


async def test_replace_makes_the_older_one_withdraw_that_algorithm_alone(bench: Bench) -> None:
    old = await bench.start("def run_ocr(url: str): return 'old'\ndef run_kept(): return 'kept'", "old")

    await bench.start("def run_ocr(url: int): return 'new'", "new", ALGORITHMS_REPLACE="true")

    assert {await bench.client.run("ocr", {"url": 1}) for _ in range(10)} == {"new"}
    assert await bench.client.run("kept") == "kept"
    assert "ocr is served by another runner now, which replaces it" in old.log()


async def test_a_runner_of_which_everything_is_replaced_ends(bench: Bench) -> None:
    old = await bench.start("def run_ocr(url: str): return 'old'", "old")

    await bench.start("def run_ocr(url: int): return 'new'", "new", ALGORITHMS_REPLACE="true")

    assert await old.exit_code() == 0
    assert "every algorithm is served by others now" in old.log()


async def test_every_fault_of_an_adapter_is_told_and_nothing_is_registered(bench: Bench) -> None:
    runner = bench.launch("def run_a(x): ...\ndef run_b(*args): ...\ndef run_c(): ...")
    worker = bench.launch("import os\nos._exit(9)", "other", ALGORITHMS_ISOLATION="process")

    assert await runner.exit_code() == await worker.exit_code() == 2
    assert 'run_a: argument "x"' in runner.log() and 'run_b: argument "*args"' in runner.log()
    assert "the process has ended with exit code 9" in worker.log()
    assert await bench.client.list() == {}


async def test_wrong_variables_are_told_at_once(bench: Bench) -> None:
    runner = bench.launch("def run_a(): ...", ALGORITHMS_TIMEOUT="60", ALGORITHMS_REPLACE="yes")

    assert await runner.exit_code() == 2
    assert "error reading config: 2 problem(s)" in runner.log()


async def test_calls_go_on_when_the_presence_bucket_is_lost(bench: Bench) -> None:
    await bench.start(BLOCKING)
    await bench.client.wait("pid", timeout=10)

    await bench.bus.delete_bucket("presence")

    assert isinstance(await bench.client.run("pid"), int)
    await bench.until(lambda served: "pid" in served)
    async with open_bench(bench.url, bench.folder) as anew:
        await anew.client.wait("pid", timeout=20)


async def test_a_runner_waits_for_nats_and_is_ready_when_it_comes(nats_server_binary: Path, tmp_path: Path) -> None:
    port = free_port()
    server = EmbeddedServer(tmp_path / "nats", binary=nats_server_binary, port=port)
    url = f"nats://127.0.0.1:{port}"
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "runner_adapter.py").write_text("def run_one(): return 1")
    runner = RunnerChild(folder, url)
    try:
        await runner.says("waiting for NATS")
        server.start_blocking()
        await runner.ready()
        async with open_bench(url, tmp_path) as bench:
            assert await bench.client.run("one") == 1
    finally:
        runner.close()
        server.stop_blocking()


async def test_a_hundred_algorithms_of_ten_runners_are_listed_in_time(bench: Bench) -> None:
    for number in range(3):
        code = "\n".join(f"def run_a{number}_{each}(n: int): return n" for each in range(33))
        await bench.start(code, f"runner-{number}")

    async with open_bench(bench.url, bench.folder) as anew:
        begun = time.perf_counter()
        listed = await anew.client.list()
        took_ms = (time.perf_counter() - begun) * 1000

    assert len(listed) == 99 and took_ms < 300, json.dumps(took_ms)

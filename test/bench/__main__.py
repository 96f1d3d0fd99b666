"""`python -m test.bench`: take the measurements, print one table of ratios, write it as JSON.

python -m test.bench                        # everything but the soak: five to ten minutes
python -m test.bench --quick                # shorter measurements, one round: one to two minutes
python -m test.bench --only latency --only memory
python -m test.bench --soak --json soak.json
python -m test.bench --profile profiles     # one node under cProfile, no table
"""

import argparse
import functools
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from test.bench import (
    algorithms,
    arrays,
    artifacts,
    batch,
    batching,
    claims,
    documents,
    fusion,
    http,
    idle,
    latency,
    machinery,
    measurements,
    models,
    rpc,
    scaling,
    soak,
    stages,
    throughput,
)
from test.bench.processes import BenchError, start_node
from test.bench.report import Row, machine, print_table, write_json
from test.bench.workbench import Workbench

Measurement = Callable[[Workbench], Awaitable[list[Row]]]

# Seconds of one throughput measurement, rounds, requests of the latency measurement; the same for --quick.
FULL = (4.0, 3, 500)
QUICK = (1.0, 1, 100)
# Pairs of measurements in a round of it: processor times differ more from each other than what is looked for.
MACHINERY_PAIRS = 4
SOAK_MESSAGES = 500_000
PROFILE_MESSAGES = 20_000
NOTES = (
    "Payload: a JSON object of the stated size; a node's messages carry it in an envelope. Streams: file, discard new.",
    "In flight: node 16 handlers, faststream 1 (its default), idiomatic 500 (one fetch), lean up to 1,500, latency 1.",
    "HTTP: 64 connections at once for the rate, one for the time; fastapi, bentoml: handler in the server, no NATS.",
    "Documents: 64 handlers save at once, but for kre, which awaits one after the other; one request and insert each.",
)


def main() -> None:
    """Run the command line; exit code 1 when a measurement could not be taken, never for a slow one."""
    options = _options(sys.argv[1:])
    if options.profile:
        # A node runs in the root of the repository, wherever this was called from.
        options.profile = options.profile.resolve()
        options.profile.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    try:
        uvloop.run(_run(options))
    except BenchError as error:
        sys.exit(f"bench: {error}")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m test.bench", description="Measure against baselines of the same run."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--quick", action="store_true", help="shorter measurements, one round")
    parser.add_argument("--only", action="append", choices=sorted(_measurements(*QUICK)), help="take only this one")
    parser.add_argument("--soak", action="store_true", help=f"only: {SOAK_MESSAGES:,} messages through one node")
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="only: one node under cProfile, data into FOLDER"
    )
    parser.add_argument("--verbose", action="store_true", help="tell every single measurement")
    return parser.parse_args(arguments)


def _measurements(seconds: float, rounds: int, requests: int) -> dict[str, Measurement]:
    """Return what can be measured, by name and in its order."""
    plan = functools.partial(throughput.Plan, seconds=seconds, rounds=rounds)
    comparisons = {
        "one-200": plan(title="one stage, 200 B", stages=1, size_bytes=200, targets=throughput.TARGETS),
        "one-10k": plan(title="one stage, 10 kB", stages=1, size_bytes=10_000),
        "chain-200": plan(title="three stages, 200 B", stages=3, size_bytes=200),
        "chain-10k": plan(title="three stages, 10 kB", stages=3, size_bytes=10_000),
        "fused": plan(
            title="three fused, 200 B",
            stages=3,
            size_bytes=200,
            contenders=fusion.CONTENDERS,
            targets=fusion.TARGETS,
        ),
        "fused-cores": plan(
            title="three fused, all cores, 200 B",
            stages=3,
            size_bytes=200,
            contenders=fusion.ON_ALL_CORES,
            targets=fusion.TARGETS,
        ),
    }
    return {
        **{name: functools.partial(throughput.measure, plan=plan) for name, plan in comparisons.items()},
        "machinery": functools.partial(machinery.measure, pairs=MACHINERY_PAIRS * rounds),
        "profile": functools.partial(stages.measure, rounds=rounds),
        "latency": functools.partial(latency.measure, requests=requests),
        "fused-latency": functools.partial(fusion.measure_latency, requests=requests),
        "http": functools.partial(http.measure, requests=requests, seconds=seconds),
        "models": functools.partial(models.measure, requests=requests),
        "algorithms": functools.partial(algorithms.measure, requests=requests),
        "grpc": functools.partial(rpc.measure, requests=requests, seconds=seconds),
        "scaling": functools.partial(scaling.measure, seconds=seconds, rounds=rounds),
        "documents": functools.partial(documents.measure, seconds=seconds, rounds=rounds),
        "measurements": measurements.measure,
        "artifacts": artifacts.measure,
        "batch": functools.partial(batch.measure, rounds=rounds),
        "arrays": functools.partial(arrays.measure, seconds=seconds, rounds=rounds),
        "claims": functools.partial(claims.measure, rounds=rounds),
        "batching": functools.partial(batching.measure, seconds=seconds, rounds=rounds),
        "start": idle.measure_start,
        "memory": idle.measure_memory,
    }


async def _run(options: argparse.Namespace) -> None:
    measurements = _measurements(*(QUICK if options.quick else FULL))
    if options.only:
        measurements = {name: measurements[name] for name in options.only}
    if options.soak:
        measurements = {"soak": functools.partial(soak.measure, messages=SOAK_MESSAGES)}
    rows: list[Row] = []
    async with Workbench.open() as bench:
        facts = machine(bench.server_version)
        if options.profile:
            await _profile(bench, options.profile)
            return
        for measure in measurements.values():
            rows.extend(await measure(bench))
    print_table(rows, facts, NOTES)
    if options.json:
        write_json(options.json, rows, facts)


async def _profile(bench: Workbench, folder: Path) -> None:
    """Run one node under cProfile, which makes it several times slower; what counts are the shares."""
    data = folder / "node.prof"
    node = throughput.Contender("node", functools.partial(start_node, profile=data), takes_envelopes=True)
    plan = throughput.Plan(title="profile", stages=1, size_bytes=200, seconds=1.0, rounds=1, contenders=(node,))
    await throughput.run_once(bench, node, plan, PROFILE_MESSAGES)
    print(f"python -m pstats {data}")


if __name__ == "__main__":
    main()

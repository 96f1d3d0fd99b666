"""What it takes to store a large artifact and to fetch it: memory above that of the idle process, and time."""

import asyncio
import json
import os
import sys
from pathlib import Path

import boto3  # type: ignore[import-untyped]  # it has none

from test.bench.processes import BenchError
from test.bench.report import Row, Target
from test.bench.workbench import Workbench
from test.support.s3 import REGION, serve_s3

MIB = 1024**2
MB = 1_000_000
TARGET = Target(bound=100, at_most=True)
# The S3 server of the tests keeps what it is given in memory, beside all else on this machine.
SIZES_MIB = {"nats": 1024, "file": 1024, "s3": 256}


async def measure(bench: Workbench) -> list[Row]:
    """Return the growth of a process that stores and fetches one artifact, for each kind of store."""
    rows = await _measure("nats", "nats:runs", bench, {})
    rows += await _measure("file", f"file://{bench.folder}/artifacts", bench, {})
    with serve_s3() as url:
        said = {
            "AWS_ENDPOINT_URL_S3": url,
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": REGION,
        }
        await asyncio.to_thread(_make_bucket, url)
        return rows + await _measure("s3", "s3://bench/artifacts", bench, said)


async def _measure(kind: str, location: str, bench: Workbench, environment: dict[str, str]) -> list[Row]:
    size_mib = SIZES_MIB[kind]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "test.bench.transfer", location, str(size_mib), bench.server.url,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, **environment}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    out, _ = await child.communicate()
    if child.returncode:
        raise BenchError(f"an artifact could not be stored in {location}: exit code {child.returncode}")
    told = json.loads(out)
    name = f"artifact of {size_mib} MiB, {kind}"
    rates = [
        Row(name=f"{name}: {verb}", who="store", value=size_mib * MIB / MB / told[key], unit="MB/s")
        for verb, key in (("put", "put_s"), ("get", "get_s"))
    ]
    grown = Row(
        name=f"{name}: memory above idle", who="store", value=told["grown_bytes"] / MB, unit="MB", target=TARGET
    )
    return [grown, *rates]


def _make_bucket(url: str) -> None:
    client = boto3.client(
        "s3", endpoint_url=url, region_name=REGION, aws_access_key_id="bench", aws_secret_access_key="bench"
    )
    client.create_bucket(Bucket="bench")
    client.close()

"""S3 for tests: moto's server in this process, which the product reaches as it reaches any other."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3  # type: ignore[import-untyped]  # it has none
import pytest

REGION = "us-east-1"


@contextmanager
def serve_s3() -> Iterator[str]:
    """Yield the address of a server without buckets; it is stopped behind the block."""
    server_module = pytest.importorskip("moto.server", reason="moto, the S3 server of the tests, is not installed")
    # It would tell of every request.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def use_s3(monkeypatch: pytest.MonkeyPatch, url: str) -> Any:
    """Let boto3 find the server and nothing else of this machine; returns a client for what the test itself does."""
    said = {
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    return boto3.client("s3")

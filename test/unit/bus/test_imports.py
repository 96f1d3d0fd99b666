"""What importing the buses brings with it."""

import subprocess
import sys

import pytest


def test_nats_py_does_not_bring_aiohttp_and_others_find_it() -> None:
    pytest.importorskip("aiohttp", reason="aiohttp, the extra `websocket`, is not installed")
    look = "print('aiohttp' in sys.modules)"
    program = f"import sys\nimport runtime.bus.nats\n{look}\nimport aiohttp\n{look}\nimport runtime.bus.websocket"

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert (ran.stdout.split(), ran.stderr) == (["False", "True"], "")

"""The bytecode of the image: every module can be imported with the packages that images have."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("package", "is_needed"), [("aiohttp", False), ("pandas", False), ("pyarrow", False), ("nats", True)]
)
def test_only_a_package_that_images_have_is_needed(package: str, is_needed: bool) -> None:
    # None in sys.modules is a package that is not installed.
    code = (
        f"import runpy, sys; sys.modules[{package!r}] = None; runpy.run_path('docker/bytecode.py', run_name='__main__')"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode != 0) == is_needed, done.stderr

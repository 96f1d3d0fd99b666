"""The bytecode of the image: every module can be imported with the packages that images have."""

import subprocess
import sys
from pathlib import Path

import pytest

from docker.bytecode import LEFT_OUT

ROOT = Path(__file__).parents[3]


# A process that imports everything there is.
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("packages", "is_enough"), [(sorted(LEFT_OUT), True), (["nats"], False)])
def test_only_packages_that_images_have_are_needed(packages: list[str], is_enough: bool) -> None:
    # None in sys.modules is a package that is not installed.
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({packages}));"
        "runpy.run_path('docker/bytecode.py', run_name='__main__')"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode == 0) == is_enough, done.stderr

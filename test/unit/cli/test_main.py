"""The way into `krt`, and how it ends when Ctrl-C comes while it still imports what a command needs."""

import subprocess
import sys

import pytest

from runtime.cli import exits
from runtime.version import __version__

# Presses Ctrl-C as a module is imported.
PROGRAM = """
import sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
from runtime.{entry} import main
main()
"""


@pytest.mark.parametrize(
    ("entry", "module", "arguments"),
    [
        ("cli.main", "typer", ["check"]),
        ("cli.main", "runtime.cli.check", ["check"]),
        ("__main__", "asyncio", ["node"]),
        ("__main__", "typer", ["check"]),
    ],
)
def test_ctrl_c_while_it_imports_ends_it_quietly(entry: str, module: str, arguments: list[str]) -> None:
    program = PROGRAM.format(module=module, entry=entry)

    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)

    assert (ran.returncode, ran.stdout, ran.stderr) == (exits.INTERRUPTED, "", "")


def test_python_m_runtime_is_krt() -> None:
    done = subprocess.run([sys.executable, "-m", "runtime", "--version"], capture_output=True, text=True, timeout=30)

    assert (done.returncode, done.stdout, done.stderr) == (exits.OK, f"krt {__version__}\n", "")

"""`python -m runtime` is `krt`, with a short way in for the processes of a workflow."""

import sys

from runtime.cli.main import main as command_line
from runtime.cli.main import quiet_interrupts
from runtime.collector import collect_rarely


def main() -> None:
    """Run a process of a workflow, or the command line."""
    collect_rarely()
    with quiet_interrupts():
        from runtime.cli import processes

        if len(sys.argv) == 2 and sys.argv[1] in processes.KINDS:
            # Without typer and rich, which every node would pay for in time and memory.
            sys.exit(processes.run(sys.argv[1]))
    command_line()


if __name__ == "__main__":
    main()

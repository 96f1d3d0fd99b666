"""`python -m runtime` is `krt`, with a short way in for the processes of a workflow."""

import gc
import sys

# New objects before a collection. What imports make stays, and to look through it every 700 objects, as Python does, is
# 6 % of a process's start.
GC_THRESHOLD = 50_000


def main() -> None:
    """Run a process of a workflow, or the command line."""
    gc.set_threshold(GC_THRESHOLD)
    from runtime.cli import processes

    if len(sys.argv) == 2 and sys.argv[1] in processes.KINDS:
        # Without typer and rich, which every node would pay for in time and memory.
        sys.exit(processes.run(sys.argv[1]))
    from runtime.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()

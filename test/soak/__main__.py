"""`python -m test.soak`: a workflow under random attacks; exit code 1 when the books do not balance.

python -m test.soak                          # 1,000,000 messages: about ten minutes on two cores
python -m test.soak --messages 50000 --every 2
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from statistics import median

import uvloop
from rich.console import Console
from rich.table import Table

from test.soak.run import Outcome, soak

MESSAGES = 1_000_000
EVERY_S = 8.0


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m test.soak", description="Send many messages, kill, and count.")
    parser.add_argument("--messages", type=int, default=MESSAGES, help=f"how many [{MESSAGES:,}]")
    parser.add_argument("--every", type=float, default=EVERY_S, metavar="S", help=f"between attacks [{EVERY_S:g}]")
    parser.add_argument("--seed", type=int, default=1, help="of the attacks [1]")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="krt-soak-") as folder:
        outcome = uvloop.run(soak(options.messages, Path(folder), every_s=options.every, seed=options.seed))
    show(outcome)
    sys.exit(0 if outcome.balances else 1)


def show(outcome: Outcome) -> None:
    """Print the final tables."""
    console = Console(highlight=False)
    rate = outcome.messages / outcome.seconds
    books = Table("", "expected", "lost", "duplicated", "", title_justify="left", box=None)
    books.title = f"{outcome.messages:,} messages in {outcome.seconds:,.0f} s: {rate:,.0f}/s"
    for line in outcome.lines:
        figures = (line.expected, line.lost, line.duplicated)
        books.add_row(line.what, *(f"{figure:,}" for figure in figures), "ok" if line.balances else "WRONG")
    console.print(books)
    console.print(", ".join(f"{count} x {name}" for name, count in outcome.attacks.items()) or "no attacks")
    if outcome.recovery_s:
        console.print(
            f"back to the rate before a node was killed: median {median(outcome.recovery_s):.1f} s, "
            f"longest {max(outcome.recovery_s):.1f} s"
        )


if __name__ == "__main__":
    main()

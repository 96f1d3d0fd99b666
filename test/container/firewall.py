"""The rules that podman's networks leave in the machine's packet filter: told apart from older ones, and removed."""

import shlex
import subprocess

TABLES = ("filter", "nat")
MARK = "NETAVARK"

# Of one table, as `iptables -S` writes them; chains (-N) come before rules (-A).
Rules = dict[str, list[str]]


def podman_rules() -> Rules:
    """Return what podman has in the packet filter now."""
    return {table: [line for line in _iptables(table, "-S").splitlines() if MARK in line] for table in TABLES}


def remove_since(before: Rules) -> None:
    """Remove what podman has added."""
    for table, lines in podman_rules().items():
        added = [shlex.split(line) for line in lines if line not in before[table]]
        # Rules first: a chain goes only when nothing leads to it, and nothing is in it.
        for _, *rule in (line for line in added if line[0] == "-A"):
            _iptables(table, "-D", *rule)
        for _, chain in (line for line in added if line[0] == "-N"):
            _iptables(table, "-X", chain)


def _iptables(table: str, *arguments: str) -> str:
    command = ["iptables", "--wait", "--table", table, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

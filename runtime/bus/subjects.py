"""Subjects of NATS: which ones a pattern selects."""

import functools


@functools.lru_cache(maxsize=4096)
def matches(pattern: str, subject: str) -> bool:
    """Say whether a subject falls under a pattern with `*` (one token) and `>` (one or more tokens at the end)."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > position
        if position >= len(tokens) or token not in ("*", tokens[position]):
            return False
    return len(wanted) == len(tokens)


def overlap(one: str, other: str) -> bool:
    """Say whether some subject falls under both patterns."""
    ones, others = one.split("."), other.split(".")
    for left, right in zip(ones, others, strict=False):
        if ">" in (left, right):
            return True
        if left != right and "*" not in (left, right):
            return False
    return len(ones) == len(others)

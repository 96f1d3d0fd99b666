"""The garbage collector of our processes, which looks rarely: what a message or a command makes dies by itself."""

import gc

# New objects, and younger collections, before a collection of each generation; Python's own are 700, 10, 10.
THRESHOLDS = (50_000, 20, 50)


def collect_rarely() -> None:
    """Collect seldom from now on. What is left in cycles is still found.

    Of a process's start, 6 % would be looking through what imports have made, and stays; of a list of ten thousand
    things, half of the time; of a node's time for messages, a tenth.
    """
    gc.set_threshold(*THRESHOLDS)

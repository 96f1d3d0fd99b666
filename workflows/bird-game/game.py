"""The game without models: how the birds fly, and what a prediction is worth. No I/O."""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Seconds of the game between two ticks.
TICK_S = 3.0
# Standard deviation of the dove's usual step, its chance to take fright in one, and how far it goes then.
STEP = 1.0
FRIGHT = 0.05
FRIGHT_STEP = 5.0
# Part of the way to the dove that the falcon flies in a tick.
PURSUIT = 0.3

# What a player begins with, and the share of its wealth that it stakes in each round.
WEALTH = 100.0
STAKE = 0.02
# Share of the newest likelihood in a player's average.
NEW = 0.1


def chase(seed: int) -> Iterator[dict[str, float | int]]:
    """Yield what the falcon sees, tick by tick, for ever; one seed, one chase."""
    chance = random.Random(seed)
    dove, falcon, time_s = 0.0, -10.0, 0.0
    while True:
        yield {"falcon_location": falcon, "dove_location": dove, "time": time_s, "falcon_id": 1}
        dove += chance.gauss(0.0, FRIGHT_STEP if chance.random() < FRIGHT else STEP)
        falcon += PURSUIT * (dove - falcon)
        time_s += TICK_S


@dataclass
class Player:
    """A tracker as the game knows it. It is here as long as the game, while its host may come and go."""

    name: str
    wealth: float = WEALTH
    likelihood_ewa: float = 0.0
    answers: int = 0
    failures: int = 0
    timeouts: int = 0
    last: str = ""

    def metrics(self) -> dict[str, float]:
        return {"wealth": self.wealth, "likelihood_ewa": self.likelihood_ewa}


def likelihood(prediction: Mapping[str, float], location: float) -> float:
    """Return the density that a prediction gives to where the dove really was. Raises ValueError for a wrong one."""
    scale = float(prediction["scale"])
    if not 0 < scale < math.inf:
        raise ValueError(f"the scale is {scale}, and not above 0")
    distance = (location - float(prediction["loc"])) / scale
    return math.exp(-distance * distance / 2) / (scale * math.sqrt(2 * math.pi))


def settle(players: Mapping[str, Player], likelihoods: Mapping[str, float]) -> None:
    """Share out the stakes of one round by likelihood; who has not answered has staked nothing."""
    total = sum(likelihoods.values())
    if not total:
        return
    stakes = {player_id: STAKE * players[player_id].wealth for player_id in likelihoods}
    pot = sum(stakes.values())
    for player_id, value in likelihoods.items():
        player = players[player_id]
        player.wealth += pot * value / total - stakes[player_id]
        player.likelihood_ewa += NEW * (value - player.likelihood_ewa)

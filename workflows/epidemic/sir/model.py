"""A model of an epidemic: susceptible, infected and removed people, who meet at random (Kermack and McKendrick, 1927).

It knows nothing of runs and their files; `connector.py` does.
"""

from dataclasses import dataclass

# Steps a day: the error of the fourth-order method is far below one person.
STEPS = 10


@dataclass(frozen=True)
class Parameters:
    """r0: people whom one infects among the susceptible. recovery_days: how long one does."""

    r0: float
    recovery_days: float
    population: float
    infected: float


def simulate(parameters: Parameters, days: int) -> list[tuple[float, float, float]]:
    """Return the susceptible, infected and removed people of each day, from day 0."""
    state = (parameters.population - parameters.infected, parameters.infected, 0.0)
    course = [state]
    for _ in range(days):
        for _ in range(STEPS):
            state = _step(parameters, state, 1 / STEPS)
        course.append(state)
    return course


def _step(parameters: Parameters, state: tuple[float, float, float], days: float) -> tuple[float, float, float]:
    """Go on by a part of a day, with the classical method of Runge and Kutta."""
    first = _change(parameters, state)
    second = _change(parameters, _moved(state, first, days / 2))
    third = _change(parameters, _moved(state, second, days / 2))
    fourth = _change(parameters, _moved(state, third, days))
    mean = tuple((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(first, second, third, fourth, strict=True))
    return _moved(state, mean, days)


def _change(parameters: Parameters, state: tuple[float, float, float]) -> tuple[float, ...]:
    susceptible, infected, _ = state
    infections = parameters.r0 / parameters.recovery_days * susceptible * infected / parameters.population
    removals = infected / parameters.recovery_days
    return (-infections, infections - removals, removals)


def _moved(state: tuple[float, float, float], change: tuple[float, ...], days: float) -> tuple[float, float, float]:
    susceptible, infected, removed = (value + days * rate for value, rate in zip(state, change, strict=True))
    return (susceptible, infected, removed)

"""Plays the bird game with every tracker that is there: python workflows/bird-game/play.py

Each round ticks all trackers, with their own metrics, asks them where the dove will be, and scores what they said the
round before. Trackers may come, fail and leave meanwhile. Scores are stored as `ctx.prediction` and `ctx.measurement`
would, in `.krt/bird-game.db` of the current folder.
"""

import argparse
import asyncio
import sys
import time
from itertools import islice

import game

from runtime.models import (
    Argument,
    DynamicSubclassModelConcurrentRunner,
    KwArgument,
    ModelPredictResult,
    ModelRunner,
    Variant,
    VariantType,
    encode_data,
)
from runtime.stores.base import DocumentStore, Insert, Point, PointStore
from runtime.stores.open import open_documents, open_points
from runtime.stores.prediction import COLLECTION, build_prediction

STORE = "sqlite:///.krt/bird-game.db"
MEASUREMENT = "bird-game"
# Seconds that a round waits for trackers.
TIMEOUT_S = 0.5
# Moves the cursor to the start of the line so many lines up, and clears what is below.
REDRAW = "\x1b[{lines}F\x1b[J"


class Match:
    """One game: players by model id, and what each of them said last."""

    def __init__(self, runner: DynamicSubclassModelConcurrentRunner, documents: DocumentStore, points: PointStore):
        self.players: dict[str, game.Player] = {}
        self._runner = runner
        self._documents = documents
        self._points = points
        self._predictions: dict[str, dict] = {}

    async def play_round(self, payload: dict) -> None:
        """Score what was said of this moment, then ask about the next one."""
        await self._score(payload["dove_location"])
        shared = Argument(position=1, data=as_json(payload))

        def arguments(model: ModelRunner):
            metrics = self._player(model).metrics()
            return [shared], [KwArgument(keyword="performance_metrics", data=as_json(metrics))]

        await self._runner.call("tick", arguments)
        results = await self._runner.call("predict")
        self._predictions = {}
        for model, result in results.items():
            self._note(self._player(model), result)
            if result.status is ModelPredictResult.Status.SUCCESS:
                self._predictions[model.model_id] = result.result

    def _player(self, model: ModelRunner) -> game.Player:
        return self.players.setdefault(model.model_id, game.Player(model.model_name))

    @staticmethod
    def _note(player: game.Player, result: ModelPredictResult) -> None:
        player.answers += result.status is ModelPredictResult.Status.SUCCESS
        player.failures += result.status is ModelPredictResult.Status.FAILED
        player.timeouts += result.status is ModelPredictResult.Status.TIMEOUT
        player.last = result.detail or f"{result.exec_time_us / 1000:.1f} ms"

    async def _score(self, location: float) -> None:
        likelihoods = {}
        for model_id, prediction in self._predictions.items():
            try:
                likelihoods[model_id] = game.likelihood(prediction, location)
            except (KeyError, TypeError, ValueError) as error:
                self.players[model_id].last = f"no prediction: {error!r}"
        game.settle(self.players, likelihoods)
        await self._save(location, likelihoods)

    async def _save(self, location: float, likelihoods: dict[str, float]) -> None:
        now_ns = time.time_ns()
        inserts = []
        for model_id, value in likelihoods.items():
            said = self._predictions[model_id]
            extra = {"model": model_id, "scale": said["scale"], "likelihood": value}
            document = build_prediction(
                f"{said['loc']:.3f}", f"{location:.3f}", extra, None, "", version_id="", version="", now_ns=now_ns
            )
            inserts.append(Insert(collection=COLLECTION, document=document))
            fields = {"likelihood": value, "wealth": self.players[model_id].wealth}
            self._points.save(Point(MEASUREMENT, fields, {"model": model_id}, now_ns))
        errors = [error for error in await self._documents.insert_many(inserts) if error is not None]
        if errors:
            raise errors[0]


def as_json(value: object):
    return Variant(type=VariantType.JSON, value=encode_data(VariantType.JSON, value))


def table(players: dict[str, game.Player], played: int) -> list[str]:
    """Return the lines of the score board, the richest first."""
    lines = [
        f"round {played}",
        f"{'TRACKER':<10}{'WEALTH':>8}{'LIKELIHOOD':>12}{'OK':>5}{'FAILED':>8}{'TIMEOUT':>9}  LAST",
    ]
    for player in sorted(players.values(), key=lambda each: -each.wealth):
        lines.append(
            f"{player.name:<10}{player.wealth:>8.1f}{player.likelihood_ewa:>12.3f}{player.answers:>5}"
            f"{player.failures:>8}{player.timeouts:>9}  {player.last[:60]}"
        )
    return lines


class Board:
    """Shows the table in place on a terminal; elsewhere only the last one is printed."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def show(self, lines: list[str], *, is_last: bool) -> None:
        if sys.stdout.isatty() and self._lines:
            print(REDRAW.format(lines=len(self._lines)), end="")
        if sys.stdout.isatty() or is_last:
            print("\n".join(lines), flush=True)
        self._lines = lines


async def play(options: argparse.Namespace) -> None:
    documents, points = open_documents(options.store), open_points(options.store)
    board = Board()
    runner = DynamicSubclassModelConcurrentRunner(
        timeout=TIMEOUT_S,
        crunch_id="bird-game",
        host=options.host,
        port=options.port,
        base_classname="birdgame.trackers.trackerbase.TrackerBase",
    )
    try:
        async with runner, asyncio.TaskGroup() as tasks:
            syncing = tasks.create_task(runner.sync())
            match = Match(runner, documents, points)
            for played, payload in enumerate(islice(game.chase(options.seed), options.rounds), start=1):
                await match.play_round(payload)
                board.show(table(match.players, played), is_last=played == options.rounds)
                await asyncio.sleep(options.pause)
            syncing.cancel()
    finally:
        await documents.close()
        await points.close()


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Play the bird game with the trackers of the cluster bird-game.")
    parser.add_argument("--host", default="localhost", help="listener of NATS")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.2, metavar="SECONDS", help="between two rounds")
    parser.add_argument("--seed", type=int, default=1, help="of the chase")
    parser.add_argument("--store", default=STORE, metavar="URI", help="where scores are saved, a `sqlite:///` file")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        asyncio.run(play(read_options()))
    except KeyboardInterrupt:
        print("\nthe game is over")

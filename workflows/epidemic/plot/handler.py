"""Plots what the runs of a sweep have computed."""

import json
import logging
import os

log = logging.getLogger(__name__)

# Where results lie, as the node `sir` tells it: keys of the object store `runs`.
STORE = "nats:runs/"
# Beside the workflow file, where local runs keep what is theirs.
PICTURE = ".krt/epidemic.png"


async def handler(ctx, data: dict) -> dict:
    complete = [run for run in data["runs"] if run["status"] == "complete"]
    curves = sorted([await read(ctx, run) for run in complete], key=lambda curve: curve["r0"])
    return {
        "plot": draw(ctx.path(PICTURE), curves),
        "runs": len(data["runs"]),
        "failed": len(data["runs"]) - len(complete),
        "peaks": {f"{curve['r0']:g}": curve["peak"] for curve in curves},
    }


async def read(ctx, run: dict) -> dict:
    """Return what the model has written in a run, and the parameter that it was given."""
    key = f"{run['resultsLocation'].removeprefix(STORE)}/public/output/data.json"
    document = json.loads(await ctx.object_store.get(key))
    return {"r0": document["metadata"]["r0"], "infected": document["infected"], "peak": document["peak"]}


def draw(file: str, curves: list[dict]) -> str:
    """Write the picture, and say where it is; without matplotlib, say so."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        log.warning("nothing is drawn: matplotlib is not installed")
        return "not drawn: matplotlib is not installed"
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="day", ylabel="infected", title="Infected people by r0")
    for curve in curves:
        axes.plot(curve["infected"], label=f"{curve['r0']:g}")
    axes.legend(title="r0")
    # Renamed when it is whole: a viewer never sees half a picture.
    os.makedirs(os.path.dirname(file), exist_ok=True)
    figure.savefig(f"{file}.part", format="png", dpi=120)
    os.replace(f"{file}.part", file)
    return PICTURE

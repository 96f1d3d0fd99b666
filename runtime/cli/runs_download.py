"""Files of a run fetched into a folder, with their progress where somebody looks at it."""

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from runtime.batch.run import Artifact
from runtime.cli.runs_files import RunFiles, place_of

# Characters of a path that the progress shows.
SHOWN_LENGTH = 40


async def download_all(files: RunFiles, wanted: Sequence[Artifact], folder: Path) -> None:
    """Fetch files, and print where each is. Raises what `RunFiles.download` does; files that were complete stay."""
    for artifact in wanted:
        place_of(artifact.path, folder)  # before anything is fetched
    console = Console(stderr=True)
    with _progress(console) as progress:
        total = progress.add_task("", total=sum(artifact.size for artifact in wanted))
        for artifact in wanted:
            progress.update(total, description=artifact.path[-SHOWN_LENGTH:])
            fetched = await files.download(artifact, folder, lambda count: progress.advance(total, count))
            typer.echo(f"{folder / artifact.path}{'' if fetched else '  (was there)'}")


def _progress(console: Console) -> Progress:
    """Return a bar on the standard error, which shows nothing unless that is a terminal."""
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

"""`export.zip`: the files of a run as one archive. Equal files give equal bytes, whenever and wherever it is made."""

import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

from runtime.batch.files import PIECE_BYTES, open_regular

# Of zlib, the smallest result.
LEVEL = 9


def write_archive(target: Path, files: Mapping[str, Path]) -> None:
    """Write an archive of these files by their paths in the run's folder, as `files.text_of`, sorted. Blocking.

    Raises NoRegularFileError, OSError; there is no archive then.
    """
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:
            for name, path in sorted(files.items()):
                # Opened by its name, an entry has the first time that the format knows, and the same rights always.
                with open_regular(path) as source, archive.open(name, "w", force_zip64=True) as entry:
                    shutil.copyfileobj(source, entry, PIECE_BYTES)
    except BaseException:
        target.unlink(missing_ok=True)
        raise

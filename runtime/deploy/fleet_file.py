"""The models file of a fleet: its last good content, and the digests of its models' folders at that moment."""

from pathlib import Path

from runtime.deploy.model_digest import ModelDigests
from runtime.errors import ConfigError
from runtime.spec.models_file import ModelsFile, load_models

# (modification time in ns, size in bytes, number of the file); None while there is none, as when an editor replaces it.
Stamp = tuple[int, int, int] | None


class FleetFile:
    """Reads block: they are not for the event loop."""

    def __init__(self, path: Path) -> None:
        """Read it for the first time. Raises ConfigError with every problem."""
        self.path = path.absolute()
        self._digests_of = ModelDigests()
        self.models_file, self.digests = self._read()

    def read_again(self) -> list[str]:
        """Take over an edit of the file or of the folders, or return its problems: then the last content stays."""
        try:
            models_file, digests = self._read()
        except ConfigError as error:
            return str(error).splitlines()
        if models_file.cluster != self.models_file.cluster:
            return [f"{self.path}: the cluster was {self.models_file.cluster}; end `krt model serve` and start it anew"]
        self.models_file, self.digests = models_file, digests
        return []

    def stamp(self) -> Stamp:
        """Return what tells one state of the file from another."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> tuple[ModelsFile, dict[str, str]]:
        loaded = load_models(self.path)
        if loaded.models_file is None:
            raise ConfigError("\n".join(map(str, loaded.report.problems)))
        try:
            digests = {model.id: self._digests_of.of(model) for model in loaded.models_file.models}
        except OSError as error:
            raise ConfigError(f"{self.path}: a file of a model cannot be read: {error}") from error
        return loaded.models_file, digests

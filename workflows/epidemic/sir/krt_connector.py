"""A connector: the glue between a batch run and a model of any kind.

This one file needs nothing but the standard library, so that it can be copied into an image beside the model:

    from krt_connector import Connector, Folders, UnsupportedInput     # or: from runtime.batch import …

    def run(config, folders):
        if config["region"] != "GB":
            raise UnsupportedInput("there are no data but those of GB")
        return {"infected": simulate(config["r0"], folders.output / "curve.csv")}

    if __name__ == "__main__":
        Connector("sir", input_schema="input-schema.json", output_schema="output-schema.json").main(run)

It reads `input/inputFile.json` and writes `output/data.json`: what `run` has returned, with `metadata`, which is the
input, and `model`, which says what has run. Schemas are checked where the package jsonschema is installed. Faults are
told on the standard error; the exit code is one of those below.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# The exit codes. The runner tells 0, the unsupported input and all others apart.
COMPLETE, FAILED, INVALID_INPUT, INVALID_OUTPUT, UNSUPPORTED = 0, 1, 2, 3, 10

INPUT_FILE, OUTPUT_FILE = "inputFile.json", "data.json"
# The variables that name the folders, with the folders of a container.
FOLDERS = {
    "input": ("MODEL_INPUT_DIR", "/data/input"),
    "output": ("MODEL_OUTPUT_DIR", "/data/output"),
    "log": ("MODEL_RUNNER_LOG_DIR", "/data/log"),
}
# The variables of the versions, for those that the connector was not given.
MODEL_VERSION, CONNECTOR_VERSION = "MODEL_VERSION", "CONNECTOR_VERSION"
# Faults of one document that are told; the first ones say enough.
MAX_FAULTS = 10


class UnsupportedInput(Exception):
    """The model cannot compute this input, although it is valid; the message says why. Ends with exit code 10."""


@dataclass(frozen=True)
class Folders:
    """Where a run has its files: nothing may be written elsewhere."""

    input: Path
    output: Path
    log: Path

    @classmethod
    def of_environment(cls) -> "Folders":
        return cls(**{name: Path(os.environ.get(variable, default)) for name, (variable, default) in FOLDERS.items()})


# Gets the configuration and the folders, and returns the content of `output/data.json`.
Run = Callable[[dict[str, Any], Folders], Mapping[str, Any]]


class _InvalidError(Exception):
    """A document is not what it has to be; `code` is the exit code that says so."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Connector:
    """Calls one model in the way that every runner expects.

    name: of the model. input_schema, output_schema: paths, relative to the folder of the program; "" for no schema.
    model_version, connector_version: "" for the values of the variables MODEL_VERSION and CONNECTOR_VERSION.
    """

    def __init__(
        self,
        name: str,
        *,
        input_schema: str | Path = "",
        output_schema: str | Path = "",
        model_version: str = "",
        connector_version: str = "",
    ) -> None:
        self._name = name
        self._schemas = {INPUT_FILE: input_schema, OUTPUT_FILE: output_schema}
        self._model_version = model_version
        self._connector_version = connector_version

    def main(self, run: Run) -> NoReturn:
        """Run the model once, in the folders of the environment, and end the process."""
        sys.exit(self.execute(run, Folders.of_environment()))

    def execute(self, run: Run, folders: Folders) -> int:
        """Run the model once and return the exit code; raises nothing but what ends a process."""
        try:
            config = self._read(folders.input / INPUT_FILE)
            self._write(folders.output / OUTPUT_FILE, self._document(run(config, folders), config))
        except UnsupportedInput as refusal:
            _tell(f"unsupported input: {refusal}")
            return UNSUPPORTED
        except _InvalidError as error:
            _tell(str(error))
            return error.code
        except Exception:
            traceback.print_exc()
            return FAILED
        return COMPLETE

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            config = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise _InvalidError(INVALID_INPUT, f"invalid input: {file} cannot be read: {error}") from error
        if not isinstance(config, dict):
            raise _InvalidError(INVALID_INPUT, f"invalid input: {file} holds no JSON object")
        if faults := self._faults(INPUT_FILE, config):
            raise _InvalidError(INVALID_INPUT, f"invalid input: {'; '.join(faults)}")
        return config

    def _document(self, result: Mapping[str, Any], config: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(result, Mapping):
            raise _InvalidError(INVALID_OUTPUT, f"invalid output: run() has returned {type(result).__name__}, no dict")
        model = {
            "name": self._name,
            "modelVersion": self._model_version or os.environ.get(MODEL_VERSION, ""),
            "connectorVersion": self._connector_version or os.environ.get(CONNECTOR_VERSION, ""),
        }
        return {**result, "metadata": config, "model": model}

    def _write(self, file: Path, document: dict[str, Any]) -> None:
        try:
            text = json.dumps(document, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise _InvalidError(INVALID_OUTPUT, f"invalid output: this is no JSON: {error}") from error
        # What was read back is what the runner will see: a tuple is an array by then, and a number a key.
        if faults := self._faults(OUTPUT_FILE, json.loads(text)):
            raise _InvalidError(INVALID_OUTPUT, f"invalid output: {'; '.join(faults)}")
        # Renamed when it is whole: a process that is killed while it writes leaves no half a document.
        unfinished = file.with_name(f".{file.name}")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)

    def _faults(self, file: str, document: Any) -> list[str]:
        """Return what the schema finds wrong with a document. Raises OSError, ValueError for a schema that is none."""
        path = self._schemas[file]
        if not path:
            return []
        try:
            import jsonschema
        except ImportError:
            _tell(f"{file} is not checked: jsonschema is not installed")
            return []
        schema = json.loads((Path(sys.argv[0]).absolute().parent / path).read_bytes())
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
        found = sorted(kind(schema).iter_errors(document), key=lambda fault: [str(step) for step in fault.path])
        return [f"{'.'.join(map(str, fault.path)) or file}: {fault.message}" for fault in found[:MAX_FAULTS]]


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

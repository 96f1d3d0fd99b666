"""The files of a new connector, as texts: no template language, `NAME` stands for the connector's name."""

from pathlib import Path

CONNECTOR = '''\
"""The model NAME, as every runner of batch runs expects it. Replace `simulate` by a call of your model."""

from krt_connector import Connector, Folders, UnsupportedInput

# The longest time, in days, that the model is made for.
MAX_DAYS = 365


def run(config: dict, folders: Folders) -> dict:
    """Turn the input into what the model takes, run it, and turn its result into the output."""
    if config["days"] > MAX_DAYS:
        raise UnsupportedInput(f"{config['days']} days are more than the {MAX_DAYS} that the model is made for")
    values = simulate(config["start"], config["rate"], config["days"])
    rows = (f"{day},{value}" for day, value in enumerate(values))
    (folders.output / "values.csv").write_text("\\n".join(["day,value", *rows, ""]))
    return {"values": values}


def simulate(start: float, rate: float, days: int) -> list[float]:
    """Grow by a rate every day: the place of the model."""
    return [start * (1 + rate) ** day for day in range(days + 1)]


if __name__ == "__main__":
    Connector(
        "NAME",
        input_schema="input-schema.json",
        output_schema="output-schema.json",
        model_version="0.1.0",
        connector_version="0.1.0",
    ).main(run)
'''

DOCKERFILE = """\
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}

LABEL krt.connector.version="0.1.0"
WORKDIR /connector
# The model goes here as well. Schemas are checked by the runner; with jsonschema in the image, by the connector, too.
COPY connector.py krt_connector.py input-schema.json output-schema.json ./

# The runner gives no arguments, and mounts /data/input, /data/output and /data/log.
CMD ["python", "/connector/connector.py"]
"""

META = """\
NAME:
  name: NAME
  origin: Your organisation
  enabled: true
  imageURL: registry.example/NAME:0.1.0
  metaURLs:
    code: https://example.org/NAME
  description: |
    What the model computes, in a paragraph.
  supportedParameters: [start, rate, days]
  supportedSchemas: [input-schema.json]
"""

INPUT_SCHEMA = """\
{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "Input of NAME",
  "type": "object",
  "properties": {
    "start": {"type": "number", "minimum": 0},
    "rate": {"type": "number", "minimum": -1, "maximum": 1},
    "days": {"type": "integer", "minimum": 1}
  },
  "required": ["start", "rate", "days"],
  "additionalProperties": false
}
"""

OUTPUT_SCHEMA = """\
{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "title": "Output of NAME",
  "type": "object",
  "properties": {
    "values": {"type": "array", "items": {"type": "number"}},
    "metadata": {"type": "object"},
    "model": {
      "type": "object",
      "properties": {
        "name": {"const": "NAME"},
        "modelVersion": {"type": "string", "minLength": 1},
        "connectorVersion": {"type": "string", "minLength": 1}
      },
      "required": ["name", "modelVersion", "connectorVersion"]
    }
  },
  "required": ["values", "metadata", "model"]
}
"""

TEST_JOB = """\
{"start": 100, "rate": 0.1, "days": 30}
"""

TEST_UNSUPPORTED = """\
{"start": 100, "rate": 0.1, "days": 3650}
"""

README = """\
# NAME

A connector: it gives the model NAME the input and output that every runner of batch runs expects.

```
krt connector test NAME                       # as a command
docker build -t registry.example/NAME:0.1.0 NAME
krt connector test NAME --backend docker      # as the image of meta.yml
```

| file | holds |
|---|---|
| `connector.py` | what turns the input into a call of the model, and its result into the output |
| `krt_connector.py` | the contract, without any dependency: a copy of `runtime/batch/connector.py` |
| `input-schema.json`, `output-schema.json` | what goes in and what comes out, as JSON Schemas |
| `test-job.json`, `test-unsupported.json` | an input, and one that the model has to refuse |
| `meta.yml` | what those are told who offer the model |
| `Dockerfile` | model and connector as an image |

The contract: no arguments; `inputFile.json` in the folder of inputs is read, `data.json` in that of outputs is written,
with the input as `metadata` and `model: {name, modelVersion, connectorVersion}`; files are written nowhere else. Exit
code 0 is a result, 10 an input that the model does not support, any other a failure.
"""

# Path in the new folder -> text. The copy of the contract is added by `files`.
TEXTS = {
    "connector.py": CONNECTOR,
    "Dockerfile": DOCKERFILE,
    "meta.yml": META,
    "input-schema.json": INPUT_SCHEMA,
    "output-schema.json": OUTPUT_SCHEMA,
    "test-job.json": TEST_JOB,
    "test-unsupported.json": TEST_UNSUPPORTED,
    "README.md": README,
}


def files() -> dict[str, str]:
    """Return the files of a new connector, with the contract as this version of the runtime has it."""
    from runtime.batch import connector

    return {**TEXTS, "krt_connector.py": Path(connector.__file__).read_text(encoding="utf-8")}

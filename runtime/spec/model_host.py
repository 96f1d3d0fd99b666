"""What one model host is told: the JSON of `KRT_MODEL_SPEC`, made by whoever starts it, read by `models/host.py`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from runtime.spec import names
from runtime.spec.node import Frozen

# Exit code of a host that a coordinator's report has stopped for good: the model is to be quarantined.
QUARANTINED_EXIT_CODE = 3

# Seconds past the deadline of a call after which the model's process is killed.
DEFAULT_KILL_AFTER_S = 60.0
# Seconds that a model has at its host's end for the call it works on.
DEFAULT_GRACE_S = 10.0
# How often a model's process is started again, and the seconds that these restarts are counted in.
DEFAULT_MAX_RESTARTS = 4
DEFAULT_RESTART_WINDOW_S = 86_400.0

# A token of subjects that others have given.
GivenId = Annotated[str, Field(pattern=f"^{names.MODEL_ID_PATTERN.pattern}$")]


class ModelHostSpec(Frozen):
    """One model and how it is kept.

    deployment: of this start, "" for a new one. name: for people, "" for the id. code: folder in which the class of the
    model is looked for. resources: folder of its data, None for none. class_name: `module:Name`, "" to search for it.
    infos: of its owner, for coordinators. environment: what its process sees beside `workers.INHERITED`. memory_bytes:
    of data, of the model's process; 0 is no limit. digest: of what is started, so that other code is another process.
    """

    cluster: Annotated[str, Field(pattern=f"^{names.NAME_PATTERN.pattern}$", max_length=names.MAX_NAME_LENGTH)]
    model_id: GivenId
    deployment: GivenId | Literal[""] = ""
    name: str = ""
    code: Path
    resources: Path | None = None
    class_name: str = ""
    infos: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    memory_bytes: Annotated[int, Field(ge=0)] = 0
    digest: str = ""
    kill_after_s: Annotated[float, Field(ge=0)] = DEFAULT_KILL_AFTER_S
    grace_s: Annotated[float, Field(ge=0)] = DEFAULT_GRACE_S
    max_restarts: Annotated[int, Field(ge=0)] = DEFAULT_MAX_RESTARTS
    restart_window_s: Annotated[float, Field(gt=0)] = DEFAULT_RESTART_WINDOW_S

"""What nodes of kind `batch` need of a workflow's place on NATS: a bucket of records, stores of artifacts. Pure."""

from runtime.spec import names
from runtime.spec.manager import ObjectStoreSpec
from runtime.spec.model import Workflow

# Seconds that the bucket keeps a record beyond its time, which is enforced on read: nobody else removes it.
RECORD_MARGIN_S = 2 * 86_400.0


def runs_buckets(workflow: Workflow, stream: str) -> dict[str, float]:
    """Return the bucket of runs with the seconds that an entry stays after its last write; none without such nodes."""
    kept_s = [node.batch.artifacts.keep_s for node in workflow.nodes if node.batch]
    return {names.runs_bucket(stream): max(kept_s) + RECORD_MARGIN_S} if kept_s else {}


def artifact_stores(workflow: Workflow, stream: str) -> tuple[ObjectStoreSpec, ...]:
    """Return the object stores of artifacts that the file does not declare: without a limit, and kept as the runs."""
    kept_s: dict[str, float] = {}
    for node in workflow.nodes:
        if node.batch and (name := node.batch.object_store) and name not in workflow.objects:
            kept_s[name] = max(kept_s.get(name, 0.0), node.batch.artifacts.keep_s)
    return tuple(ObjectStoreSpec(name=f"{stream}_{name}", keep_s=kept, max_bytes=0) for name, kept in kept_s.items())

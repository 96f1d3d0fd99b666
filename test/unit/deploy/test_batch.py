"""What a workflow with nodes of kind batch has on NATS."""

from pathlib import Path

from runtime.deploy.batch import artifact_stores, runs_buckets
from runtime.deploy.manager_spec import manager_spec
from runtime.spec.load import load
from runtime.spec.manager import ObjectStoreSpec
from runtime.spec.model import Workflow

DAY_S = 86_400.0


def workflow(folder: Path, *artifacts: str, objects: str = "{}") -> Workflow:
    nodes = [
        f"  - {{name: n{number}, from: entrypoint, kind: batch, backend: command, command: [a], artifacts: {each}}}"
        for number, each in enumerate(artifacts)
    ]
    (folder / "workflow.yaml").write_text("\n".join(["name: floods", f"objects: {objects}", "nodes:", *nodes]))
    return load(folder)


def test_records_are_kept_as_long_as_the_longest_of_the_nodes_wants(tmp_path: Path) -> None:
    flow = workflow(tmp_path, "{keep: 10d}", "{keep: 20d}")

    assert runs_buckets(flow, "s") == {"runs_s": 22 * DAY_S}
    assert manager_spec(flow, "local").aging_buckets == {"runs_local_dev_floods": 22 * DAY_S}


def test_a_store_that_is_not_declared_is_made_without_a_limit(tmp_path: Path) -> None:
    flow = workflow(tmp_path, "{keep: 10d}", "{keep: 20d}", '{store: "nats:other", keep: 1d}', '{store: "s3://b/c"}')

    assert artifact_stores(flow, "s") == (
        ObjectStoreSpec(name="s_runs", keep_s=20 * DAY_S, max_bytes=0),
        ObjectStoreSpec(name="s_other", keep_s=DAY_S, max_bytes=0),
    )


def test_a_declared_store_is_as_the_file_says(tmp_path: Path) -> None:
    flow = workflow(tmp_path, "{keep: 10d}", objects="{runs: {max_bytes: 5Gi}}")

    assert artifact_stores(flow, "s") == ()
    assert [store for store in manager_spec(flow, "local").object_stores if "claims" not in store.name] == [
        ObjectStoreSpec(name="local_dev_floods_runs", keep_s=0, max_bytes=5 * 1024**3)
    ]


def test_a_workflow_without_such_nodes_has_neither(tmp_path: Path) -> None:
    (tmp_path / "workflow.yaml").write_text("name: hello\nnodes: [{name: a}]")
    flow = load(tmp_path)

    assert (runs_buckets(flow, "s"), artifact_stores(flow, "s")) == ({}, ())

"""What a workflow has on NATS, as its manager is told. Pure."""

from collections.abc import Iterator

from runtime.deploy.batch import artifact_stores, runs_buckets
from runtime.deploy.claims_spec import claim_stores, claims_of_requests
from runtime.deploy.wiring import durable_of, inputs_of, object_store_of, scopes_of, stream_of, when_of
from runtime.spec import names
from runtime.spec.manager import ConsumerSpec, DeadLetterSpec, ManagerSpec, ObjectStoreSpec
from runtime.spec.model import Node, Workflow, entrypoint
from runtime.spec.selection import SelectionSpec

# Messages that may wait at once, unacknowledged: the first part of each set of a join until its time is over, and on a
# node that dispatches those whose algorithm nobody serves, of kind batch those whose runs another worker has. Beyond it
# they hold up all others.
MAX_WAITING = 1_000_000
# Seconds that a join remembers a set after its last part: for parts that come again or late, and for redriving it.
JOIN_MEMORY_S = 2 * 3600.0


def manager_spec(workflow: Workflow, runtime_id: str) -> ManagerSpec:
    """Return what the workflow has on NATS."""
    stream = stream_of(workflow, runtime_id)
    dead_letters = _dead_letters(workflow, stream)
    return ManagerSpec(
        stream=stream,
        subjects=tuple(names.stream_subjects(stream)),
        storage=workflow.stream.storage,
        replicas=workflow.stream.replicas,
        max_bytes=workflow.stream.max_bytes,
        keep_s=workflow.stream.keep_s,
        duplicate_window_s=workflow.dedup_window_s,
        # One for each process: what a fused node reads of another one in its process comes without a consumer.
        consumers=tuple(consumer for chain in workflow.chains for consumer in _consumers(workflow, chain[0], stream)),
        dead_letters=dead_letters,
        buckets=_buckets(workflow, stream, runtime_id),
        applied_bucket=names.applied_bucket(stream),
        object_stores=tuple(
            ObjectStoreSpec(
                name=object_store_of(workflow, name, runtime_id), keep_s=store.keep_s or 0.0, max_bytes=store.max_bytes
            )
            for name, store in workflow.objects.items()
        )
        + artifact_stores(workflow, stream)
        + claim_stores(workflow, stream, dead_letters.keep_s if dead_letters else None),
        aging_buckets=_aging_buckets(workflow, stream),
        entrypoint=workflow.partitions_of(entrypoint()),
        atomic=any(node.atomic for node in workflow.nodes),
        claims=claims_of_requests(workflow, stream),
        selection=_selection(workflow, stream),
    )


def _consumers(workflow: Workflow, node: Node, stream: str) -> Iterator[ConsumerSpec]:
    """Yield the consumer of a node, or those of the partitions of an ordered one."""
    durable, inputs = durable_of(node), inputs_of(workflow, node, stream)
    if node.partitions is None:
        waits = bool(node.join or node.dispatch or node.batch)
        yield ConsumerSpec(durable=durable, filter_subjects=inputs, max_ack_pending=MAX_WAITING if waits else None)
    for number in range(node.partitions or 0):
        subjects = names.partition_inputs(inputs, number)
        yield ConsumerSpec(
            durable=names.partition_durable(durable, number), filter_subjects=subjects, max_ack_pending=1
        )


def _aging_buckets(workflow: Workflow, stream: str) -> dict[str, float]:
    buckets = {names.state_bucket(stream, node.name): node.state.ttl_s or 0.0 for node in workflow.nodes if node.state}
    for node in workflow.nodes:
        if node.join:
            buckets[names.join_bucket(stream, node.name)] = node.join.timeout_s + JOIN_MEMORY_S
    return buckets | runs_buckets(workflow, stream)


def _dead_letters(workflow: Workflow, stream: str) -> DeadLetterSpec | None:
    kept_s = [node.dead_letter_keep_s for node in workflow.nodes if node.dead_letter_keep_s is not None]
    if not kept_s:
        return None
    own = names.dead_letter_stream(stream)
    return DeadLetterSpec(stream=own, subjects=tuple(names.stream_subjects(own)), keep_s=max(kept_s))


def _selection(workflow: Workflow, stream: str) -> SelectionSpec | None:
    nodes = {node.name: when_of(node, stream) for node in workflow.nodes if node.when}
    return SelectionSpec(nodes=nodes) if nodes else None


def _buckets(workflow: Workflow, stream: str, runtime_id: str) -> dict[str, dict[str, str]]:
    buckets: dict[str, dict[str, str]] = {names.attempts_bucket(stream): {}}
    for node in workflow.nodes:
        project, of_workflow, of_node = scopes_of(workflow, node, runtime_id)
        buckets |= {project: {}, of_workflow: dict(workflow.config), of_node: dict(node.config)}
    return buckets

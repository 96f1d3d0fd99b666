"""What a runner is told about its node. Pure."""

from runtime.deploy.claims_spec import claims_of_node
from runtime.deploy.wiring import durable_of, error_source, object_store_of, scopes_of, stream_of, subject_of, when_of
from runtime.spec import names
from runtime.spec.model import Node, Source, Workflow
from runtime.spec.node import FusedNode, HandOver, JoinSpec, NodeSpec, Partitions, StateSpec


def node_spec(workflow: Workflow, node: Node, runtime_id: str, handler_version: str) -> NodeSpec:
    """Return what a runner is told about its node."""
    is_output = workflow.output.node == node.name
    errors_to = error_source(workflow, node)
    stream = stream_of(workflow, runtime_id)
    return NodeSpec(
        durable=durable_of(node),
        retry=node.retry,
        timeout_s=node.timeout_s,
        concurrency=node.concurrency,
        workers=node.workers,
        batching=node.batching,
        exit_channel=(workflow.output.channel or names.MAIN_CHANNEL) if is_output else None,
        error_subject=subject_of(errors_to, stream),
        keep_dead_letters=node.dead_letter_keep_s is not None,
        handler_version=handler_version,
        partitions=node.partitions,
        state=StateSpec(bucket=names.state_bucket(stream, node.name), type=node.state.type) if node.state else None,
        partitioned=_partitioned(workflow, node, stream),
        join=_join(node, stream),
        when=when_of(node, stream),
        claims=claims_of_node(workflow, node, stream),
        atomic=node.atomic,
        models=node.models,
        dispatch=node.dispatch,
        batch=node.batch,
        sink=node.sink,
        hand_over=_hand_over(workflow, node, stream),
    )


def fused_node(workflow: Workflow, node: Node, runtime_id: str, handler_version: str) -> FusedNode:
    """Return what the process of a chain is told about a node behind its first one."""
    stream = stream_of(workflow, runtime_id)
    spec = node_spec(workflow, node, runtime_id, handler_version)
    return FusedNode(
        node=node.name,
        handler=node.handler,
        input=subject_of(node.sources[0], stream),
        output=names.node_subject(stream, node.name),
        configuration=scopes_of(workflow, node, runtime_id)[-1],
        object_store=object_store_of(workflow, node.object_store, runtime_id) if node.object_store else "",
        spec=spec.model_copy(update={"fused_with": workflow.chain_of(node)[0].name}),
    )


def _hand_over(workflow: Workflow, node: Node, stream: str) -> HandOver | None:
    """Return what the node hands on inside of its process, None where it has that to itself."""
    chain = workflow.chain_of(node)
    if node == chain[-1]:
        return HandOver() if len(chain) > 1 else None
    output = Source(node=node.name)
    subject, partitions = subject_of(output, stream), workflow.partitions_of(output)
    parts = range(partitions.count if partitions else 0)
    return HandOver(
        subjects=(subject, *(names.partition_subject(subject, number) for number in parts)),
        stored=output == workflow.output or len(workflow.readers_of(output)) > 1,
    )


def _partitioned(workflow: Workflow, node: Node, stream: str) -> dict[str, Partitions]:
    """Return how the node publishes those of its outputs that somebody reads in order."""
    read = {source for reader in workflow.nodes for source in reader.sources if source.node == node.name}
    found = {subject_of(source, stream): workflow.partitions_of(source) for source in sorted(read, key=str)}
    return {subject: partitions for subject, partitions in found.items() if partitions}


def _join(node: Node, stream: str) -> JoinSpec | None:
    if node.join is None:
        return None
    subjects = (subject_of(source, stream) for source in node.sources)
    return JoinSpec(
        bucket=names.join_bucket(stream, node.name),
        parts=dict(zip(subjects, node.join.parts, strict=True)),
        key=node.join.key,
        timeout_s=node.join.timeout_s,
        partial=node.join.on_timeout == "partial",
    )

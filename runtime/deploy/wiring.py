"""What a deployed workflow is called on NATS: stream, consumers, subjects and buckets. Pure.

A runtime id and the names of the file say it all; the rules themselves are those of `spec/names.py`.
"""

from runtime.errors import ConfigError
from runtime.spec import names
from runtime.spec.model import Node, Source, Workflow
from runtime.spec.selection import Conditions


def stream_of(workflow: Workflow, runtime_id: str) -> str:
    """Return the stream of the deployed workflow."""
    return names.stream(runtime_id, workflow.version, workflow.name)


def durable_of(node: Node) -> str:
    """Return the consumer of a node."""
    return names.durable(node.name, [str(source) for source in node.sources])


def object_store_of(workflow: Workflow, name: str, runtime_id: str) -> str:
    """Return what an object store of the file is called on NATS. Raises ConfigError for one that is not declared."""
    store = workflow.objects.get(name)
    if store is None:
        known = ", ".join(workflow.objects) or "none"
        raise ConfigError(f'workflow "{workflow.name}" has no object store "{name}"; it has {known}')
    owner = workflow.name if store.scope == "workflow" else ""
    return names.object_store(runtime_id, workflow.version, owner, name)


def error_source(workflow: Workflow, node: Node) -> Source:
    """Return the output of a node on which its ERRORs go, so that they reach the output node, which answers with them.

    That is the plain output, unless only a channel leads there. Where nothing leads there, nobody waits for an answer.
    """
    plain = Source(node=node.name)
    leading = _leading_to_output(workflow)
    ways = {source for reader in workflow.nodes if reader.name in leading for source in reader.sources}
    channels = sorted(source.channel for source in ways if source.node == node.name)
    if node.name == workflow.output.node or plain in ways or not channels:
        return plain
    return Source(node=node.name, channel=channels[0])


def inputs_of(workflow: Workflow, node: Node, stream: str) -> tuple[str, ...]:
    """Return the subjects of the node's sources, and for each the one on which its dead letters are redriven.

    Of an output that is in partitions for another node's sake, an unordered node reads all partitions together. The
    first node of a fused chain also takes what is redriven to the others, whose inputs come no other way.
    """
    subjects = [subject_of(source, stream) for source in node.sources]
    if node.partitions is None:
        shared = [source for source in node.sources if workflow.partitions_of(source)]
        subjects += [names.partition_subject(subject_of(source, stream), "*") for source in shared]
    own = (*subjects, *(names.redrive_subject(node.name, subject) for subject in subjects))
    head, *behind = workflow.chain_of(node)
    return (*own, *(redriven_input(each, stream) for each in behind)) if node == head else own


def redriven_input(node: Node, stream: str) -> str:
    """Return the subject on which the dead letters of a fused node are redriven, which reads one plain output."""
    return names.redrive_subject(node.name, subject_of(node.sources[0], stream))


def subject_of(source: Source, stream: str) -> str:
    if source.node == names.ENTRYPOINT:
        return names.entrypoint_subject(stream)
    return names.node_subject(stream, source.node, source.channel)


def when_of(node: Node, stream: str) -> dict[str, Conditions]:
    """Return what the messages of the node's sources have to fit, by subject."""
    return {subject_of(Source.parse(source), stream): conditions for source, conditions in node.when.items()}


def _leading_to_output(workflow: Workflow) -> set[str]:
    """Return the output node and every node that something of leads there."""
    leading: set[str] = set()
    waiting = [workflow.output.node]
    while waiting:
        name = waiting.pop()
        if name not in leading and name != names.ENTRYPOINT:
            leading.add(name)
            waiting += [source.node for source in workflow.node(name).sources]
    return leading


def scopes_of(workflow: Workflow, node: Node, runtime_id: str) -> tuple[str, str, str]:
    """Return the buckets of the three scopes of configuration: project, workflow, node."""
    place = (runtime_id, workflow.version)
    return (
        names.configuration_bucket(*place),
        names.configuration_bucket(*place, workflow.name),
        names.configuration_bucket(*place, workflow.name, node.name),
    )

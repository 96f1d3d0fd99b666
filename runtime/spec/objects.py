"""Which object store each node has: the one that it names, else the only one. Pure; works on a faulty file, too."""

from collections.abc import Mapping, Sequence

from runtime.spec.model import ObjectStore
from runtime.spec.report import Fault, Report, did_you_mean
from runtime.spec.tree import Text
from runtime.spec.wiring import NodeDraft


def choose_object_stores(drafts: Sequence[NodeDraft], declared: Mapping[str, ObjectStore], report: Report) -> None:
    """Give every draft the name of its object store, "" for none; report the names that are not declared."""
    only = next(iter(declared)) if len(declared) == 1 else ""
    for draft in drafts:
        written: Text | None = draft.values.get("object_store")
        if written is not None and written.text not in declared:
            report.add(_undeclared(written, draft, declared))
        draft.values["object_store"] = written.text if written else only


def _undeclared(written: Text, draft: NodeDraft, declared: Mapping[str, ObjectStore]) -> Fault:
    remedy = did_you_mean(written.text, declared) if declared else f"declare it: objects: {{{written.text}: {{}}}}"
    what = f'{draft.title} has the object store "{written.text}", which "objects" does not declare'
    return Fault(written.place, what, remedy, "unknown-object-store")

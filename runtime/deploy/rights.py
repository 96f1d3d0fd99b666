"""Rights on a NATS server, as the subjects that using something takes. Pure.

What a right is on: a stream, and so a bucket (`KV_<name>`) or an object store (`OBJ_<name>`).
"""

from runtime.models import wire
from runtime.spec import names

# Operations of JetStream's API on one stream, which the subject names last, or last but for a consumer.
_MAKE = ("STREAM.CREATE", "STREAM.UPDATE", "STREAM.INFO")
_EMPTY = ("STREAM.PURGE", "STREAM.MSG.DELETE", "CONSUMER.LIST", "CONSUMER.CREATE")
MAKE_CONSUMERS = ("CONSUMER.CREATE", "CONSUMER.DURABLE.CREATE", "CONSUMER.INFO", "CONSUMER.DELETE")
_READ = ("STREAM.INFO", "STREAM.MSG.GET", "DIRECT.GET")
_WATCH = ("CONSUMER.CREATE", "CONSUMER.DELETE", "CONSUMER.INFO")
_PRESENCE = f"KV_{names.PRESENCE_BUCKET}"


def owns(stream: str) -> list[str]:
    """Return what making a stream, its consumers and emptying it takes."""
    emptied = [f"$JS.API.{operation}.{stream}" for operation in _EMPTY]
    return [*makes(stream), *emptied, *(f"$JS.API.{operation}.{stream}.>" for operation in MAKE_CONSUMERS)]


def makes(stream: str) -> list[str]:
    """Return what making and reading a stream takes."""
    return [*(f"$JS.API.{operation}.{stream}" for operation in _MAKE), *reads(stream)]


def reads(stream: str) -> list[str]:
    """Return what reading single messages of a stream takes."""
    return [*(f"$JS.API.{operation}.{stream}" for operation in _READ), f"$JS.API.DIRECT.GET.{stream}.>"]


def watches(stream: str) -> list[str]:
    """Return what following a stream by temporary consumers takes."""
    return [f"$JS.API.CONSUMER.CREATE.{stream}", *(f"$JS.API.{operation}.{stream}.>" for operation in _WATCH)]


def presence(stream: str, *key: str) -> list[str]:
    """Return what telling of one's own presence takes."""
    kind, *name = key
    own = ".".join((names.PRESENCE_BUCKET, kind, stream, *name))
    return [f"$KV.{own}.>", *shares_presence()]


def watches_presence() -> list[str]:
    """Return what seeing who is there takes."""
    return [*shares_presence(), *watches(_PRESENCE)]


def carries_bodies(store: str) -> list[str]:
    """Return what bodies that are larger than a message take; whoever is first makes their store."""
    return [*makes(f"OBJ_{store}"), *watches(f"OBJ_{store}"), f"$O.{store}.>"]


def carries_claims(store: str) -> list[str]:
    """Return what putting and fetching payloads takes that are larger than a message, in a store that others make."""
    stream = f"OBJ_{store}"
    # Purging: whoever replaces an object, or breaks off, removes what it had stored.
    return [*reads(stream), f"$JS.API.STREAM.PURGE.{stream}", f"$O.{store}.>"]


def calls_models(cluster: str) -> list[str]:
    """Return what seeing the models of a cluster, and asking all of them, takes."""
    # Names and infos are the owner's to change.
    asks = [names.model_subject(cluster, "*", "*", action) for action in wire.ACTIONS if action != wire.INFOS]
    return [*asks, *watches_presence(), *carries_bodies(names.model_store(cluster))]


def calls_algorithms() -> list[str]:
    """Return what calling algorithms by name takes."""
    asked = names.algorithm_subject("*", ">")
    seen = reads(f"KV_{names.ALGORITHMS_BUCKET}")
    return [asked, *seen, *watches_presence(), *carries_bodies(names.ALGORITHMS_STORE)]


def runs_models(stream: str, node: str) -> list[str]:
    """Return what the worker of a node of kind batch takes: its records, what it tells, and who else lives."""
    bucket = names.runs_bucket(stream)
    told = [names.run_subject(stream, "*", action) for action in ("event", "log", "start")]
    seen = [*presence(stream, names.BATCH, node), *watches_presence()]
    return [f"$KV.{bucket}.>", *reads(f"KV_{bucket}"), *watches(f"KV_{bucket}"), *told, *seen]


def asks_for_runs(stream: str) -> list[str]:
    """Return what looking at batch runs takes, and asking for them to be cancelled or stored again."""
    bucket = names.runs_bucket(stream)
    asked = [names.run_subject(stream, "*", action) for action in ("cancel", "store")]
    # One that no worker has is cancelled in its record.
    return [f"$KV.{bucket}.>", *reads(f"KV_{bucket}"), *watches(f"KV_{bucket}"), *asked]


def shares_presence() -> list[str]:
    """Return what opening the bucket takes that all workflows share: whoever is first makes it, as all others would."""
    return [f"$JS.API.STREAM.CREATE.{_PRESENCE}", *reads(_PRESENCE)]

"""The one table of who may call what, and which field of a message must name the caller.

What is not in it is refused: a method, a role, a name that is not the caller's own. Who calls is what the certificate
says; a name in a message is only ever compared with it. The cloud's own certificate is in no row: it calls nobody.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from elsa.errors import PermissionDeniedError
from services.rpc.identity import Identity, Role

Server = Literal["cloud", "edge"]
"""What serves: `AdapterService` is served by both, to other callers."""


@dataclass(frozen=True)
class Names:
    """Where the messages of a call name their caller; fields within messages by dots, of a repeated field all.

    Attributes:
        first: must be set to the caller's name in the first message, and wherever it is set in later ones.
        every: must be the caller's name wherever it is set, in any message.
    """

    first: str = ""
    every: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which roles may call a method, and how each must name itself; None: it may not."""

    admin: Names | None = None
    edge: Names | None = None
    client: Names | None = None

    def names(self, role: Role) -> Names | None:
        """How a caller of `role` must name itself; None if it may not call."""
        return {"admin": self.admin, "edge": self.edge, "client": self.client}.get(role)

    @property
    def roles(self) -> tuple[Role, ...]:
        """Who may call."""
        roles: tuple[Role, ...] = ("admin", "edge", "client")
        return tuple(role for role in roles if self.names(role) is not None)


_NODE = Names("node_id")
_CLIENT = Names("client_id")
_UNNAMED = Names()
_OPERATOR = Rule(admin=_UNNAMED)
_BOTH: Mapping[str, Rule] = {
    # Whether a server is up, which who reaches it knows anyway.
    "/grpc.health.v1.Health/Check": Rule(admin=_UNNAMED, edge=_UNNAMED, client=_UNNAMED),
    "/grpc.health.v1.Health/List": Rule(admin=_UNNAMED, edge=_UNNAMED, client=_UNNAMED),
    # For people with tools such as grpcurl; programs have the descriptors.
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _OPERATOR,
}
_CLOUD: Mapping[str, Rule] = {
    # A node makes itself known, under its own name and as what its certificate says: were another's taken, all that
    # is meant for that node would go to the address that was told.
    "/elsa.v1.FleetService/RegisterEdge": Rule(edge=Names("edge_id")),
    "/elsa.v1.FleetService/RegisterClient": Rule(client=_CLIENT),
    # A node alone says that it lives and how far it is.
    "/elsa.v1.FleetService/Heartbeat": Rule(edge=_NODE, client=_NODE),
    # A node alone says whether it takes part: by another's refusal it would be thrown out of its run.
    "/elsa.v1.FleetService/JoinRun": Rule(edge=_NODE, client=_NODE),
    # Assignments hold what a node alone is told: its clients, its edge, the key that was wrapped for it.
    "/elsa.v1.FleetService/WatchAssignment": Rule(edge=_NODE, client=_NODE),
    # Keys are between clients, so that no edge can turn activations back; each key says who wrapped it.
    "/elsa.v1.FleetService/ShareKeys": Rule(client=Names("client_id", every=("keys.from_client_id",))),
    # Probes come in each client's own order, with repetitions that it is not told: another's would give them away.
    "/elsa.v1.FleetService/GetProbes": Rule(client=_CLIENT),
    # A fingerprint decides with whom its client learns and how far it is trusted.
    "/elsa.v1.FleetService/UploadFingerprint": Rule(client=_CLIENT),
    # Where edges stand is for those who look after the fleet; a client is told of its own by its assignments.
    "/elsa.v1.FleetService/ListEdges": _OPERATOR,
    # Runs are the operators'. They name the nodes of a run and what each did and measured; a node is told what it
    # needs of its runs by its assignments. Operators act as no node, so none of their messages names a caller.
    "/elsa.v1.RunService/SubmitRun": _OPERATOR,
    "/elsa.v1.RunService/GetRun": _OPERATOR,
    "/elsa.v1.RunService/ListRuns": _OPERATOR,
    "/elsa.v1.RunService/WatchRun": _OPERATOR,
    "/elsa.v1.RunService/CancelRun": _OPERATOR,
    "/elsa.v1.RunService/GetClusters": _OPERATOR,
    "/elsa.v1.RunService/GetProfiles": _OPERATOR,
    "/elsa.v1.RunService/ExportAdapter": _OPERATOR,
    # Metrics of a client's own rows; the first report of a version is the one that counts.
    "/elsa.v1.RunService/ReportEvaluation": Rule(client=_CLIENT),
    # Edges alone bring aggregates and fetch versions. Clients go to their edge, which knows their split and cluster.
    "/elsa.v1.AdapterService/PushAdapter": Rule(edge=Names("header.node_id")),
    "/elsa.v1.AdapterService/PullAdapter": Rule(edge=_NODE),
    # An edge offers no watch: it would hold a thread.
    "/grpc.health.v1.Health/Watch": Rule(admin=_UNNAMED, edge=_UNNAMED, client=_UNNAMED),
}
_EDGE: Mapping[str, Rule] = {
    # Sessions, their trunks and the base belong to clients: an edge has no business at another edge, and operators
    # train and predict as nobody.
    "/elsa.v1.SplitService/Train": Rule(client=Names("open.client_id")),
    "/elsa.v1.SplitService/Predict": Rule(client=Names("open.client_id")),
    "/elsa.v1.SplitService/FetchBlocks": Rule(client=_CLIENT),
    # Clients measure their links before a run has an edge for them.
    "/elsa.v1.SplitService/Ping": Rule(client=_UNNAMED),
    # A client brings its own tensors with its own report alone, and takes what its own cluster learned.
    "/elsa.v1.AdapterService/PushAdapter": Rule(
        client=Names("header.node_id", every=("header.reports.client_id", "reports.reports.client_id"))
    ),
    "/elsa.v1.AdapterService/PullAdapter": Rule(client=_NODE),
}
CALLS: Mapping[Server, Mapping[str, Rule]] = {"cloud": {**_CLOUD, **_BOTH}, "edge": {**_EDGE, **_BOTH}}
"""Of each kind of server, the methods that it may be asked for."""


def check_role(server: Server, method: str, caller: Identity) -> Names:
    """How `caller` must name itself in `method`'s messages. Raises PermissionDeniedError if it may not call it."""
    rule = CALLS[server].get(method)
    if rule is None:
        raise PermissionDeniedError(
            f"{caller} may not call {_short(method)}: this {server} does not offer it; check the address"
        )
    names = rule.names(caller.role)
    if names is None:
        who = " and ".join(f"{role}s" for role in rule.roles)
        raise PermissionDeniedError(f"{caller} may not call {_short(method)}: it is for {who}; call as one of them")
    return names


def check(server: Server, method: str, caller: Identity, request: Any, *, first: bool = True) -> None:
    """Raise PermissionDeniedError unless `caller` may send `request`, the first message of a call or a later one."""
    names = check_role(server, method, caller)
    if names.first:
        found = list(_values(request, names.first.split(".")))
        if first and not found:
            _refuse(method, caller, names.first, "")
        _check_own(method, caller, names.first, found)
    for path in names.every:
        _check_own(method, caller, path, _values(request, path.split(".")))


def _check_own(method: str, caller: Identity, path: str, found: Any) -> None:
    for name in found:
        if name != caller.name:
            _refuse(method, caller, path, name)


def _refuse(method: str, caller: Identity, path: str, name: str) -> None:
    named = f"names {name!r:.80}" if name else "names nobody"
    raise PermissionDeniedError(
        f"{caller} may not act for others: {path} of {_short(method)} {named}; "
        f"give {caller.name!r} there, or use that node's own certificate"
    )


def _values(message: Any, path: list[str]) -> Iterator[str]:
    """What stands at `path`, of repeated fields every one; nothing where a message on the way is not set."""
    field, *rest = path
    if not rest:
        yield getattr(message, field)
    elif message.DESCRIPTOR.fields_by_name[field].is_repeated:
        for each in getattr(message, field):
            yield from _values(each, rest)
    elif message.HasField(field):
        yield from _values(getattr(message, field), rest)


def _short(method: str) -> str:
    """`JoinRun` of `/elsa.v1.FleetService/JoinRun`."""
    return method.rpartition("/")[2]

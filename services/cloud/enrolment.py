"""When a run begins to enroll, to warm up, to cluster, or cannot: decisions from facts, without side effects."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from elsa.clustering import ClusteringSpec
from elsa.plan.problem import Refusal
from elsa.spec import FleetSpec
from services.cloud.records import Answer, Member, Node, Role


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What to do now: go on to the next state, fail with a reason, or wait."""

    go: bool = False
    failure: str = ""


_SHOWN = 20
WAIT, GO = Verdict(), Verdict(go=True)
_REMEDY = "start more, or lower fleet.min_clients and fleet.min_edges, or raise fleet.enroll_timeout_s"


def fits(node: Node, dataset: str) -> bool:
    """Whether a node can be offered a run on `dataset`: any edge, and clients that have it."""
    return node.role is Role.EDGE or dataset in node.datasets


def after_pending(fleet: FleetSpec, fitting: Sequence[Node], dataset: str, waited_s: float) -> Verdict:
    """Whether the nodes that are alive and fit are enough to begin."""
    edges = sorted(node.node_id for node in fitting if node.role is Role.EDGE)
    clients = sorted(node.node_id for node in fitting if node.role is Role.CLIENT)
    if waited_s >= fleet.enroll_timeout_s:
        return Verdict(
            failure=f"after {fleet.enroll_timeout_s:g} s {_count(edges, fleet.min_edges, 'edges')} and "
            f"{_count(clients, fleet.min_clients, 'clients')} with data set {dataset!r} are there; {_REMEDY}"
        )
    return GO if len(edges) >= fleet.min_edges and len(clients) >= fleet.min_clients else WAIT


def after_enrolling(
    fleet: FleetSpec, members: Sequence[Member], alive: Collection[str], *, initial: bool, waited_s: float
) -> Verdict:
    """Whether the members that joined are enough, and nobody alive has still to answer.

    `initial` says whether version 0 is there.
    """
    expired = waited_s >= fleet.enroll_timeout_s
    joined = [member for member in members if _takes_part(member, alive)]
    possible = [member for member in members if member.answer is not Answer.REFUSED]
    thinking = any(member.answer is Answer.OFFERED and member.node_id in alive for member in members)
    hopeless = not fleet.wait_for_others and not _enough(fleet, possible)
    if hopeless or (expired and not _enough(fleet, joined)):
        return Verdict(failure=_who_is_missing(fleet, members, alive))
    if expired and not initial:
        return Verdict(failure=f"no edge pushed the first adapter within {fleet.enroll_timeout_s:g} s; see its log")
    return GO if initial and _enough(fleet, joined) and (expired or not thinking) else WAIT


def with_room(fleet: FleetSpec, fault: str, *, waited_s: float) -> Verdict:
    """Go on where all clients find an edge; where not, `fault` says why, and more edges or links may yet come."""
    if not fault:
        return GO
    return Verdict(failure=fault) if waited_s >= fleet.enroll_timeout_s else WAIT


def plan_fault(fleet: FleetSpec, left: int, refused: Sequence[Refusal]) -> str:
    """Why a run does not begin to train whose plan refuses some and leaves so many clients; empty if it does.

    One line with the reasons. Clients that drop out by themselves once a run has enrolled are the quorum's matter.
    """
    if left >= fleet.min_clients or not any(refusal.role == "client" for refusal in refused):
        return ""
    reasons = [str(refusal) for refusal in refused[:_SHOWN]]
    more = [f"and {len(refused) - _SHOWN} more"] if len(refused) > _SHOWN else []
    needs = f"{left} of {fleet.min_clients} clients can take part"
    return "; ".join(
        [needs, *reasons, *more, "mend what they name, or lower fleet.min_clients, and submit the run again"]
    )


def after_warmup(
    clustering: ClusteringSpec,
    clients: Collection[str],
    sent: Collection[str],
    gone: Collection[str],
    waited_s: float,
) -> Verdict:
    """Whether the wait for fingerprints ends: at the quorum of the clients that are not gone, or at the deadline.

    Where all are gone it is the deadline, as they may come back.
    """
    there = set(clients) - set(gone)
    quorum = math.ceil(clustering.quorum * len(there) - 1e-9)
    enough = bool(there) and len(there & set(sent)) >= quorum
    return GO if enough or waited_s >= clustering.deadline_s else WAIT


def _takes_part(member: Member, alive: Collection[str]) -> bool:
    return member.answer is Answer.JOINED and member.node_id in alive


def _enough(fleet: FleetSpec, members: Sequence[Member]) -> bool:
    edges = sum(member.role is Role.EDGE for member in members)
    return edges >= fleet.min_edges and len(members) - edges >= fleet.min_clients


def _who_is_missing(fleet: FleetSpec, members: Sequence[Member], alive: Collection[str]) -> str:
    there = [member for member in members if _takes_part(member, alive)]
    edges = sum(member.role is Role.EDGE for member in there)
    needs = [f"{len(there) - edges} of {fleet.min_clients} clients joined"]
    if edges < fleet.min_edges:
        needs.append(f"{edges} of {fleet.min_edges} edges joined")
    out = [member for member in members if not _takes_part(member, alive)]
    more = [f"and {len(out) - _SHOWN} more"] if len(out) > _SHOWN else []
    return "; ".join([*needs, *(_why(member, alive) for member in out[:_SHOWN]), *more, _REMEDY])


def _why(member: Member, alive: Collection[str]) -> str:
    if member.answer is Answer.REFUSED:
        return f"{member.node_id} refused: {member.detail}"
    return f"{member.node_id} {'has not answered' if member.node_id in alive else 'is silent'}"


def _count(names: Sequence[str], least: int, noun: str) -> str:
    shown = [*names[:_SHOWN], *(["…"] if len(names) > _SHOWN else [])]
    return f"{len(names)} of {least} {noun}" + (f" ({', '.join(shown)})" if names else "")

"""Which frozen base the members of a run have: all the same, that of the first edge that says which it has."""

from dataclasses import replace

from elsa.errors import CheckpointError
from elsa.spec import RunSpec
from services.cloud.events import NodeJoined
from services.cloud.records import Answer, Member, Role, Run
from services.cloud.store import Transaction


def check_base(transaction: Transaction, run: Run, member: Member) -> None:
    """Raise CheckpointError if a member that is to join says that it has another base than the run's edges.

    Nothing is known of who does not say, and nothing before an edge has.
    """
    edge = _first_edge(transaction, member)
    if edge is not None and (fault := _fault(member, edge, run)):
        raise CheckpointError(fault)


def refuse_others(transaction: Transaction, run: Run, edge: Member, now: float) -> list[str]:
    """Refuse the clients that joined with another base than `edge` has, with their events; their names.

    To be called before the edge is written down, and only of use for the first to say which base it has.
    """
    if not edge.base_digest or _first_edge(transaction, edge) is not None:
        return []
    joined = transaction.all(Member, run_id=run.run_id, role=Role.CLIENT, answer=Answer.JOINED)
    refused = []
    for client in joined:
        if fault := _fault(client, edge, run):
            blank = Member(run_id=run.run_id, node_id=client.node_id, role=client.role)
            transaction.put(replace(blank, answer=Answer.REFUSED, detail=fault))
            transaction.append(run.run_id, NodeJoined(node_id=client.node_id, detail=fault, accepted=False), now)
            refused.append(client.node_id)
    return refused


def _first_edge(transaction: Transaction, but: Member) -> Member | None:
    """An edge of a member's run, other than itself, that said which base it has: all that did said the same."""
    joined = transaction.all(Member, run_id=but.run_id, role=Role.EDGE, answer=Answer.JOINED)
    return next((edge for edge in joined if edge.base_digest and edge.node_id != but.node_id), None)


def _fault(member: Member, edge: Member, run: Run) -> str:
    """Why a member cannot be in a run with an edge, on one line; empty unless both say which base they have."""
    if not member.base_digest or member.base_digest == edge.base_digest:
        return ""
    source = RunSpec.from_yaml(run.spec).model.source
    remedy = f"give it the files of {edge.node_id} (--models {source}=FOLDER)"
    if member.role is Role.CLIENT:
        remedy += ", or let it have its weights from the edge (--weights edge)"
    return (
        f"{member.node_id} has another model under the name {source} ({member.base_digest[:12]}) than "
        f"{edge.node_id} ({edge.base_digest[:12]}): {remedy}"
    )

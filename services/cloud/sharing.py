"""Writes down what was planned: what each client carries, who is left out, and the event that tells of it."""

from collections.abc import Sequence
from dataclasses import replace

from elsa.errors import CapacityError
from elsa.plan.result import ClientPlan
from elsa.spec import RunSpec
from services.cloud.enrolment import plan_fault
from services.cloud.events import Planned, PlannedClient
from services.cloud.leaving import leave_out
from services.cloud.planning import Planning, Replanned, Share
from services.cloud.records import Member, Role, Run
from services.cloud.store import Transaction

MOST_NOTES = 20


def with_share(client: Member, share: Share | None) -> Member:
    """A client that carries `share`; as it is without one."""
    return client if share is None else replace(client, split=share.split, local_steps=share.local_steps)


def leave_out_refused(transaction: Transaction, run: Run, planning: Planning, now: float) -> None:
    """Take the clients that cannot carry their least share out of a run that begins.

    Raises CapacityError with the reasons if fewer than `fleet.min_clients` are left.
    """
    if fault := plan_fault(RunSpec.from_yaml(run.spec).fleet, len(planning.shares), planning.refused):
        raise CapacityError(fault)
    for refusal in planning.refused:
        client = transaction.get(Member, run_id=run.run_id, node_id=refusal.name)
        if client is not None and refusal.role == "client":
            leave_out(transaction, client, refusal.reason, now)


def share_anew(transaction: Transaction, run: Run, made: Replanned, version: int, now: float) -> None:
    """Keep the profiles that changed, and give clients what a new plan has them carry, with the event if any do."""
    for profile in made.profiles:
        transaction.put(profile)
    planning = made.planning
    if planning is None or not planning.shares:
        return
    changed: list[Share] = []
    for client in transaction.all(Member, run_id=run.run_id, role=Role.CLIENT):
        share = planning.shares.get(client.node_id)
        if share is None or client.edge_id != share.plan.edge:  # it left or was moved meanwhile
            continue
        if with_share(client, share) != client:
            transaction.put(with_share(client, share))
            changed.append(share)
    if changed:
        tell(transaction, run, planning, changed, version, now)


def tell(
    transaction: Transaction, run: Run, planning: Planning, changed: Sequence[Share], version: int, now: float
) -> None:
    """The event of a plan in which `changed` carry something else than before."""
    event = Planned(
        version=version,
        notes=_first(planning.notes),
        step_s=planning.step_s,
        clients=tuple(_told(share.plan, share.local_steps) for share in changed),
    )
    transaction.append(run.run_id, event, now)


def _first(notes: Sequence[str]) -> tuple[str, ...]:
    """As many as are read; there may be one for each edge and each client."""
    more = (f"and {len(notes) - MOST_NOTES} more",) if len(notes) > MOST_NOTES else ()
    return (*notes[:MOST_NOTES], *more)


def _told(own: ClientPlan, local_steps: int) -> PlannedClient:
    return PlannedClient(
        client_id=own.name,
        edge_id=own.edge,
        split=str(own.split),
        local_steps=local_steps,
        seconds=own.seconds,
        need_bytes=own.need.total,
        reason=own.reason,
    )

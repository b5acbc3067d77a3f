"""Writes down what was planned: what each client carries, who is left out, and the event that tells of it."""

from collections.abc import Sequence
from dataclasses import replace

from elsa.plan.result import ClientPlan
from services.cloud.events import Planned, PlannedClient
from services.cloud.leaving import leave_out
from services.cloud.planning import Planning, Replanned, Share
from services.cloud.records import Member, Run
from services.cloud.store import Transaction


def with_share(client: Member, share: Share | None) -> Member:
    """A client that carries `share`; as it is without one."""
    return client if share is None else replace(client, split=share.split, local_steps=share.local_steps)


def leave_out_refused(transaction: Transaction, run: Run, planning: Planning, now: float) -> None:
    """Take the clients that cannot carry their least share out of a run that begins."""
    for refusal in planning.refused:
        client = transaction.get(Member, run_id=run.run_id, node_id=refusal.name)
        if client is not None and refusal.role == "client":
            leave_out(transaction, client, refusal.reason, now)


def share_anew(transaction: Transaction, run: Run, made: Replanned, version: int, now: float) -> None:
    """Keep the profiles, and give clients what a new plan has them carry, with the event if anything changed."""
    for profile in made.profiles:
        transaction.put(profile)
    planning = made.planning or Planning(shares={})
    changed: list[Share] = []
    for client_id, share in planning.shares.items():
        client = transaction.get(Member, run_id=run.run_id, node_id=client_id)
        if client is None or client.edge_id != share.plan.edge:  # it left or was moved meanwhile
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
        notes=planning.notes,
        step_s=planning.step_s,
        clients=tuple(_told(share.plan, share.local_steps) for share in changed),
    )
    transaction.append(run.run_id, event, now)


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

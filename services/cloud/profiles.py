"""What the devices of a run measured, for operators: as its plan of splits was last made from."""

from dataclasses import dataclass

from elsa.errors import StaleRoundError
from elsa.plan.profile import ClientProfile, EdgeProfile
from elsa.plan.shape import ModelShape
from services.cloud.keys import works
from services.cloud.records import Member, Profile
from services.cloud.store import Store


@dataclass(frozen=True, kw_only=True)
class ProfiledClient:
    """A client that takes part, with what it carries now."""

    member: Member
    profile: ClientProfile
    row_tokens: float


@dataclass(frozen=True, kw_only=True)
class Profiles:
    """The profiles of one run, by name."""

    shape: ModelShape
    edges: tuple[EdgeProfile, ...]
    clients: tuple[ProfiledClient, ...]


def profiles_of(store: Store, run_id: str) -> Profiles:
    """The profiles of a run. Raises NotFoundError, StaleRoundError where splits are not planned, or not yet."""
    with store.transaction() as transaction:
        run = transaction.run(run_id)
        kept = transaction.all(Profile, run_id=run_id)
        members = {member.node_id: member for member in transaction.all(Member, run_id=run_id)}
    shape = next((own.shape for own in kept if own.shape is not None), None)
    if shape is None:
        raise StaleRoundError(
            f"run {run_id} ({run.state}) has no profiles: its splits are given (plan.method), or no edge has joined"
        )
    return Profiles(
        shape=shape,
        edges=tuple(own.edge for own in kept if own.edge is not None),
        clients=tuple(
            _profiled(members[own.node_id], own) for own in kept if own.client and works(members[own.node_id])
        ),
    )


def _profiled(member: Member, own: Profile) -> ProfiledClient:
    if own.client is None:
        raise RuntimeError(f"{own.node_id} is no client")
    return ProfiledClient(member=member, profile=own.client, row_tokens=own.row_tokens)

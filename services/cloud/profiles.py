"""What the devices of a run measured, for operators: as its plan of splits was last made from."""

from dataclasses import dataclass

from elsa.errors import StaleRoundError
from elsa.plan.profile import ClientProfile, EdgeProfile
from elsa.plan.shape import ModelShape
from services.cloud.agreed import agreed_shape, taking_part
from services.cloud.keys import works
from services.cloud.records import Answer, Member, Profile, Role
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
    there = taking_part(kept, {name for name, member in members.items() if works(member) or _serves(member)})
    if not any(own.shape for own in there):
        raise StaleRoundError(
            f"run {run_id} ({run.state}) has no profiles: its splits are given (plan.method), or no edge is there"
        )
    return Profiles(
        shape=agreed_shape(there),
        edges=tuple(own.edge for own in there if own.edge is not None),
        clients=tuple(
            ProfiledClient(member=members[own.node_id], profile=own.client, row_tokens=own.row_tokens)
            for own in there
            if own.client is not None
        ),
    )


def _serves(member: Member) -> bool:
    """Whether a member is an edge that takes part."""
    return member.role is Role.EDGE and member.answer is Answer.JOINED

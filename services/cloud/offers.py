"""How a node answers the offer of a run, and what the cloud checks of it."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from elsa.errors import MalformedError, SpecError
from elsa.plan.profile import ClientProfile, EdgeProfile
from elsa.plan.shape import ModelShape, Workload
from elsa.spec import RunSpec
from services.cloud.fleet import MOST, check_number
from services.cloud.records import Answer, Link, Member, Profile, Role


@dataclass(frozen=True, kw_only=True)
class ClientOffer:
    """What a client brings to a run."""

    train_rows: int
    heldout_rows: int
    row_report: str
    links: tuple[Link, ...]
    public_key: bytes = b""
    """For keys that other clients wrap for it; of no use where the run shares none."""
    profile: ClientProfile | None = None
    """What it measured of itself and of its links; None where it did not."""
    row_tokens: float = 0.0
    """With a profile: real tokens of one of its rows on average."""
    base_digest: str = ""
    """Names the frozen base that it has; empty where it does not say."""


@dataclass(frozen=True, kw_only=True)
class EdgeOffer:
    """What an edge brings to a run."""

    room: int
    profile: EdgeProfile | None = None
    """What it measured of itself; None where it did not."""
    shape: ModelShape | None = None
    """Of the run's model, likewise."""
    base_digest: str = ""
    """As `ClientOffer.base_digest`."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a node does not take part."""

    reason: str


MOST_LINKS = 1024
PUBLIC_KEY_BYTES = 32

Reply = ClientOffer | EdgeOffer | Refusal


def answered(member: Member, reply: Reply) -> Member:
    """`member` with its answer. Raises MalformedError for one that is not of its role or out of bounds."""
    blank = Member(run_id=member.run_id, node_id=member.node_id, role=member.role)
    if isinstance(reply, Refusal):
        return replace(blank, answer=Answer.REFUSED, detail=_line(reply.reason) or "no reason given")
    if isinstance(reply, EdgeOffer) and member.role is Role.EDGE:
        check_number("edge.room", reply.room, 1, MOST)
        return replace(blank, answer=Answer.JOINED, room=reply.room, base_digest=reply.base_digest)
    if isinstance(reply, ClientOffer) and member.role is Role.CLIENT:
        _check_client(reply)
        return replace(
            blank,
            answer=Answer.JOINED,
            detail=_line(reply.row_report),
            train_rows=reply.train_rows,
            heldout_rows=reply.heldout_rows,
            links=reply.links,
            base_digest=reply.base_digest,
        )
    raise MalformedError(f"answer: {member.node_id} is registered as {member.role}; answer as one or refuse")


def _check_client(offer: ClientOffer) -> None:
    check_number("client.train_rows", offer.train_rows, 1, MOST)
    check_number("client.heldout_rows", offer.heldout_rows, 1, MOST)
    check_number("client.links, their count", len(offer.links), 0, MOST_LINKS)
    if not offer.links:
        raise MalformedError("client.links: none; a client joins with at least one edge that it reaches")
    if len({link.edge_id for link in offer.links}) < len(offer.links):
        raise MalformedError("client.links: an edge stands there twice")
    for link in offer.links:
        check_number(f"client.links, latency_ms to {link.edge_id}", link.latency_ms)
        check_number(f"client.links, up_bytes_per_s to {link.edge_id}", link.up_bytes_per_s)
        check_number(f"client.links, down_bytes_per_s to {link.edge_id}", link.down_bytes_per_s)


def profile_of(spec: RunSpec, member: Member, reply: ClientOffer | EdgeOffer) -> Profile:
    """What a member of a run that plans splits measured of itself.

    Raises MalformedError, naming the field, where that is missing or cannot be of this run.
    """
    blank = Profile(run_id=member.run_id, node_id=member.node_id)
    if reply.profile is None:
        raise MalformedError(f"{member.role}.profile: none; the run's splits are planned from what devices measure")
    if isinstance(reply, ClientOffer):
        if max(reply.row_tokens, reply.profile.padded_tokens or 0) > spec.model.max_tokens:
            raise MalformedError(
                f"client.profile.row_tokens: {reply.row_tokens:g}; no row of the run has more than its "
                f"model.max_tokens, {spec.model.max_tokens}"
            )
        return replace(blank, client=reply.profile, row_tokens=reply.row_tokens)
    if reply.shape is None:
        raise MalformedError("edge.shape: none; the run's splits are planned, which needs the shape of its model")
    _check_shape(spec, reply.shape)
    return replace(blank, edge=reply.profile, shape=reply.shape)


def _check_shape(spec: RunSpec, shape: ModelShape) -> None:
    """Raise MalformedError for a model that the run's codecs or its bounds of splits do not fit."""
    try:
        Workload.of(spec, shape.width, 1.0)
    except SpecError as error:
        raise MalformedError(f"edge.shape: width {shape.width} does not fit the run: {error}") from error
    if spec.split.bottom + spec.split.top >= shape.blocks:
        raise MalformedError(
            f"edge.shape: {shape.blocks} blocks; the run's split leaves {spec.split.bottom} and {spec.split.top} to "
            "each client, and at least one more is needed"
        )


def check_edges(offer: ClientOffer, edges: Collection[str]) -> None:
    """Raise MalformedError if a client reports a link to an edge that is not among those of the run."""
    for link in offer.links:
        if link.edge_id not in edges:
            raise MalformedError(f"client.links: {link.edge_id[:80]!r} is no edge of the run; measure those offered")


def check_public_key(public_key: bytes) -> None:
    """Raise MalformedError for what is no public key, in an offer to a run that shares a key."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise MalformedError(
            f"client.public_key: {len(public_key)} bytes; the run shares a key (privacy.ssop), for which a client "
            f"offers an X25519 public key of {PUBLIC_KEY_BYTES}"
        )


def summary(member: Member) -> str:
    """What a member that has answered brings, or why it does not come, on one line."""
    if member.answer is Answer.REFUSED:
        return member.detail
    if member.role is Role.EDGE:
        return f"room for {member.room}"
    rows = f"{member.train_rows} rows to train on, {member.heldout_rows} kept back"
    return f"{rows}; {member.detail}" if member.detail else rows


def _line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())[:500]

"""Profiles, shares and plans as messages of the cloud's API."""

from collections.abc import Iterable

from elsa.plan.messages import (
    client_from_proto,
    client_to_proto,
    edge_from_proto,
    edge_to_proto,
    links_to_proto,
    shape_from_proto,
    shape_to_proto,
)
from elsa.plan.profile import LinkProfile
from elsa.train.phases import PhaseSeconds
from elsa.v1 import fleet_pb2, run_pb2, split_pb2
from elsa.wire.manifest import checked_sha256
from services.cloud.convert import fitting
from services.cloud.events import Planned, PlannedClient
from services.cloud.offers import ClientOffer, EdgeOffer
from services.cloud.profiles import Profiles
from services.cloud.records import Link, Member


def client_offer_from_proto(name: str, offer: fleet_pb2.ClientOffer) -> ClientOffer:
    """What a client brings to a run. Raises MalformedError for a profile that cannot be planned with."""
    links = tuple(
        Link(
            edge_id=link.edge_id,
            latency_ms=link.latency_ms,
            up_bytes_per_s=link.up_bytes_per_s,
            down_bytes_per_s=link.down_bytes_per_s,
        )
        for link in offer.links
    )
    profile, row_tokens = None, 0.0
    if offer.HasField("profile"):
        profile, row_tokens = client_from_proto(name, offer.profile, _measured(links))
    return ClientOffer(
        train_rows=offer.train_rows,
        heldout_rows=offer.heldout_rows,
        row_report=offer.row_report,
        links=links,
        public_key=offer.public_key,
        profile=profile,
        row_tokens=row_tokens,
        base_digest=_checked_digest(offer.base_digest, "client.base_digest"),
    )


def edge_offer_from_proto(name: str, offer: fleet_pb2.EdgeOffer) -> EdgeOffer:
    """What an edge brings to a run. Raises MalformedError for a profile or shape that cannot be planned with."""
    return EdgeOffer(
        room=offer.room,
        profile=edge_from_proto(name, offer.profile, offer.room) if offer.HasField("profile") else None,
        shape=shape_from_proto(offer.shape, "edge.shape") if offer.HasField("shape") else None,
        base_digest=_checked_digest(offer.base_digest, "edge.base_digest"),
    )


def _checked_digest(value: str, field: str) -> str:
    return checked_sha256(value, field) if value else ""


def share_to_proto(client: Member | None) -> fleet_pb2.ClientShare | None:
    """What a client carries; None of one whose split is not planned."""
    if client is None or client.split is None:
        return None
    bottom, top = map(int, client.split.split("/"))
    return fleet_pb2.ClientShare(bottom=bottom, top=top, local_steps=client.local_steps)


def planned_to_proto(body: Planned) -> run_pb2.Planned:
    """A plan; of more clients than go into one message the first, with the number of all."""
    message = run_pb2.Planned(version=body.version, notes=body.notes, step_s=body.step_s, changed=len(body.clients))
    message.clients.extend(fitting(list(map(_planned_client, body.clients)), message.ByteSize()))
    return message


def profiles_to_proto(profiles: Profiles) -> run_pb2.GetProfilesResponse:
    """What devices measured; as many as go into one message, edges first."""
    edges = [
        run_pb2.ProfiledEdge(edge_id=edge.name, profile=edge_to_proto(edge), capacity=edge.capacity)
        for edge in profiles.edges
    ]
    message = run_pb2.GetProfilesResponse(shape=shape_to_proto(profiles.shape), edges=fitting(edges))
    clients = [
        run_pb2.ProfiledClient(
            client_id=own.profile.name,
            profile=client_to_proto(own.profile, own.row_tokens),
            links=links_to_proto(own.profile.links),
            edge_id=own.member.edge_id or "",
            share=share_to_proto(own.member),
        )
        for own in profiles.clients
    ]
    message.clients.extend(fitting(clients, message.ByteSize()))
    message.left_out = len(edges) - len(message.edges) + len(clients) - len(message.clients)
    return message


def phases_to_proto(seconds: PhaseSeconds) -> split_pb2.PhaseSeconds:
    """Seconds by phase as their message."""
    return split_pb2.PhaseSeconds(
        bottom=seconds.bottom,
        network=seconds.network,
        wait=seconds.wait,
        trunk=seconds.trunk,
        top=seconds.top,
    )


def _measured(links: Iterable[Link]) -> dict[str, LinkProfile]:
    """The links whose throughput was measured, by edge."""
    return {
        link.edge_id: LinkProfile(
            latency_ms=link.latency_ms, up_bytes_per_s=link.up_bytes_per_s, down_bytes_per_s=link.down_bytes_per_s
        )
        for link in links
        if link.up_bytes_per_s > 0 and link.down_bytes_per_s > 0
    }


def _planned_client(own: PlannedClient) -> run_pb2.PlannedClient:
    return run_pb2.PlannedClient(
        client_id=own.client_id,
        edge_id=own.edge_id,
        split=own.split,
        local_steps=own.local_steps,
        seconds=phases_to_proto(own.seconds),
        need_bytes=own.need_bytes,
        reason=own.reason,
    )

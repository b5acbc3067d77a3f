"""Profiles and shapes as messages of `fleet.proto`, both ways; what comes from the wire is checked."""

from collections.abc import Mapping
from dataclasses import fields

from elsa.errors import MalformedError, SpecError
from elsa.plan.profile import ClientProfile, EdgeProfile, LinkProfile
from elsa.plan.shape import ModelShape
from elsa.v1 import fleet_pb2 as pb

MOST_ROW_TOKENS = 2**31


def shape_to_proto(shape: ModelShape) -> pb.ModelShape:
    """A model's shape as its message."""
    return pb.ModelShape(**{one.name: getattr(shape, one.name) for one in fields(shape)})


def shape_from_proto(message: pb.ModelShape, field: str = "shape") -> ModelShape:
    """A model's shape, in `field` of what was sent. Raises MalformedError naming the field."""
    try:
        shape = ModelShape(**{one.name: getattr(message, one.name) for one in fields(ModelShape)})
        shape.check_measured()
    except SpecError as error:
        raise MalformedError(f"{field}: {error}") from error
    return shape


def client_to_proto(profile: ClientProfile, row_tokens: float) -> pb.ClientProfile:
    """A client's profile without its links, which `links_to_proto` gives."""
    return pb.ClientProfile(
        block_s=profile.block_s,
        embeddings_s=profile.embeddings_s,
        head_s=profile.head_s,
        codec_s=profile.codec_s,
        memory_bytes=profile.memory_bytes,
        max_bottom=profile.max_bottom or 0,
        row_tokens=row_tokens,
        padded_tokens=profile.padded_tokens or 0.0,
    )


def client_from_proto(
    name: str, message: pb.ClientProfile, links: Mapping[str, LinkProfile]
) -> tuple[ClientProfile, float]:
    """A client's profile with these links, and the real tokens of its rows on average. Raises MalformedError."""
    if not 0 < message.row_tokens <= MOST_ROW_TOKENS:
        raise MalformedError(
            f"client.profile: row_tokens is {message.row_tokens:g}; it must be above 0, at most 2^31"
        )
    try:
        profile = ClientProfile(
            name=name,
            block_s=message.block_s,
            embeddings_s=message.embeddings_s,
            head_s=message.head_s,
            codec_s=message.codec_s,
            memory_bytes=message.memory_bytes,
            max_bottom=message.max_bottom or None,
            padded_tokens=message.padded_tokens or None,
            links=links,
        )
    except SpecError as error:
        raise MalformedError(f"client.profile: {error}") from error
    return profile, message.row_tokens


def edge_to_proto(profile: EdgeProfile) -> pb.EdgeProfile:
    """An edge's profile without its capacity, which is its room in a run."""
    return pb.EdgeProfile(
        block_s=profile.block_s,
        crowding_s=profile.crowding_s,
        memory_bytes=profile.memory_bytes,
        quarter_block_s=profile.quarter_block_s or 0.0,
        step_s=profile.step_s,
        quarter_step_s=profile.quarter_step_s or 0.0,
    )


def edge_from_proto(name: str, message: pb.EdgeProfile, capacity: int) -> EdgeProfile:
    """An edge's profile. Raises MalformedError."""
    try:
        return EdgeProfile(
            name=name,
            block_s=message.block_s,
            crowding_s=message.crowding_s,
            memory_bytes=message.memory_bytes,
            capacity=capacity,
            quarter_block_s=message.quarter_block_s or None,
            step_s=message.step_s,
            quarter_step_s=message.quarter_step_s if message.quarter_block_s else None,
        )
    except SpecError as error:
        raise MalformedError(f"edge.profile: {error}") from error


def links_to_proto(links: Mapping[str, LinkProfile]) -> list[pb.LinkReport]:
    """A client's links, in order of the edges' names."""
    return [
        pb.LinkReport(
            edge_id=edge,
            latency_ms=link.latency_ms,
            up_bytes_per_s=link.up_bytes_per_s,
            down_bytes_per_s=link.down_bytes_per_s,
        )
        for edge, link in sorted(links.items())
    ]

"""What `elsa plan` plans from: a file of profiles, or what the devices of a run measured."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from elsa.errors import InputError, MalformedError, SpecError
from elsa.plan.messages import client_from_proto, edge_from_proto, shape_from_proto
from elsa.plan.problem import Placed, Refusal
from elsa.plan.profile import LinkProfile
from elsa.plan.profile_file import Profiles, profiles_from_json
from elsa.plan.shape import ModelShape
from elsa.spec import RunSpec, Split
from elsa.v1 import fleet_pb2
from elsa.v1 import run_pb2 as pb


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Devices, with what is to be said of how their figures came about."""

    profiles: Profiles
    previous: Mapping[str, Placed] = field(default_factory=dict)
    """What each client carries now."""
    notes: tuple[str, ...] = ()
    """Lines."""


def figures_of_file(path: Path) -> Figures:
    """What a file says. Raises SpecError if it cannot be read, or is no file of profiles."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SpecError(f"--profiles {path}: cannot be read ({reason}); give a JSON file of profiles") from error
    return Figures(profiles=profiles_from_json(text, str(path)))


def figures_of_run(answer: pb.GetProfilesResponse) -> Figures:
    """What a run's devices measured, and the splits that they have. Raises MalformedError naming the field."""
    _check_names(answer)
    shape, faults = shape_from_proto(answer.shape), []
    edges, clients, row_tokens = [], [], []
    for told in answer.edges:
        try:
            edges.append(edge_from_proto(told.edge_id, told.profile, told.capacity))
        except MalformedError as error:
            faults.append(Refusal(name=told.edge_id, role="edge", reason=str(error)))
    for each in answer.clients:
        try:
            client, tokens = client_from_proto(each.client_id, each.profile, _links(each.links))
        except MalformedError as error:
            faults.append(Refusal(name=each.client_id, role="client", reason=str(error)))
            continue
        clients.append(client)
        row_tokens.append(tokens)
    left_out = f"{answer.left_out} devices did not go into the cloud's answer and are left out"
    return Figures(
        profiles=Profiles(
            clients=tuple(clients),
            edges=tuple(edges),
            homes={each.client_id: each.edge_id for each in answer.clients if each.edge_id},
            faults=tuple(faults),
            model=shape,
            row_tokens=sum(row_tokens) / len(row_tokens) if row_tokens else None,
        ),
        previous={each.client_id: _placed(each, shape) for each in answer.clients if each.share.bottom},
        notes=(left_out,) if answer.left_out else (),
    )


def with_shape(figures: Figures, spec: RunSpec, row_tokens: float | None) -> Figures:
    """The same with a model and the tokens of a row, from the specification where the figures do not say them.

    Args:
        row_tokens: what counts instead of what the figures say.

    Raises:
        InputError: if the model must be looked at and that is not possible here.
    """
    profiles, notes = figures.profiles, figures.notes
    tokens = row_tokens or profiles.row_tokens
    if tokens is None:
        tokens = float(spec.model.max_tokens)
        notes += (f"every row counts as max_tokens, {tokens:g} tokens: nothing says how long rows really are",)
    model = profiles.model or _shape_of(spec)
    return replace(figures, profiles=replace(profiles, model=model, row_tokens=tokens), notes=notes)


def _shape_of(spec: RunSpec) -> ModelShape:
    try:
        from elsa.model.adapter import adapter_config
        from elsa.model.weights import Checkpoint
        from elsa.train.sizes import model_shape
    except ImportError as error:
        raise InputError(
            f"the shape of {spec.model.source} cannot be measured here ({error.name} is not installed); give it as "
            "\"model\" in the file of --profiles, or install elsa with its extra 'train'"
        ) from error
    checkpoint = Checkpoint.open(spec.model.source)
    labels = len(spec.data.labels)
    return model_shape(spec, checkpoint, adapter_config(checkpoint, spec.lora, spec.model.task, labels))


def _check_names(answer: pb.GetProfilesResponse) -> None:
    for names in ([one.edge_id for one in answer.edges], [one.client_id for one in answer.clients]):
        twice = next((name for name, times in Counter(names).items() if times > 1), None)
        if twice is not None:
            raise MalformedError(f"GetProfilesResponse: {twice!r} is there twice")


def _links(reports: Iterable[fleet_pb2.LinkReport]) -> dict[str, LinkProfile]:
    """By edge; those whose throughput was not measured are left out."""
    return {
        each.edge_id: LinkProfile(
            latency_ms=each.latency_ms,
            up_bytes_per_s=each.up_bytes_per_s,
            down_bytes_per_s=each.down_bytes_per_s,
        )
        for each in reports
        if each.up_bytes_per_s and each.down_bytes_per_s
    }


def _placed(told: pb.ProfiledClient, shape: ModelShape) -> Placed:
    bottom, top = told.share.bottom, told.share.top
    if bottom + top >= shape.blocks:
        raise MalformedError(
            f"GetProfilesResponse.clients: {told.client_id!r} has bottom {bottom} and top {top} of {shape.blocks}"
        )
    return Placed(edge=told.edge_id, split=Split(bottom=bottom, trunk=shape.blocks - bottom - top, top=top))

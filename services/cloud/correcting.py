"""Brings the profiles of a run up to what its last round measured, each device's apart from the others'."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from elsa.errors import SpecError, SplitError
from elsa.plan.measured import Measured, client_as_measured, edge_as_measured
from elsa.plan.shape import Workload
from elsa.spec import RunSpec, Split
from services.cloud.agreed import agreed_shape, mean_padded_tokens, mean_row_tokens, taking_part
from services.cloud.records import Member, Profile
from services.cloud.round_records import ClientReport


def corrected(
    spec: RunSpec,
    members: Sequence[Member],
    profiles: Sequence[Profile],
    homes: Mapping[str, str],
    reports: Mapping[str, Sequence[ClientReport]],
) -> tuple[list[Profile], tuple[str, ...]]:
    """The profiles of a run as `reports`, by edge, say that its devices are, and what could not be used, a line each.

    Those of which nothing is said stay, and so do those whose reports make no profile. An edge's word counts for
    those clients alone that are assigned to it. Raises CapacityError where no edge has told the model's shape,
    SpecError where the run's codecs do not fit it.
    """
    known = {kept.node_id: kept for kept in profiles}
    notes: list[str] = []
    home = {member.node_id: member.edge_id for member in members}
    there = taking_part(profiles, {*homes, *homes.values()})
    shape = agreed_shape(there)
    workload = Workload.of(spec, shape.width, mean_row_tokens(there), mean_padded_tokens(there))

    def correct(node_id: str, mend: Callable[[Profile], Profile]) -> None:
        try:
            if node_id in known:
                known[node_id] = mend(known[node_id])
        except (SpecError, SplitError, ValueError, ArithmeticError) as error:
            notes.append(f"{node_id} keeps its profile: {error}")

    for edge_id, told in reports.items():
        measured = _measured([report for report in told if home.get(report.client_id) == edge_id], shape.blocks)
        for client_id, work in measured.items():
            correct(client_id, partial(_client, edge_id=edge_id, workload=workload, work=work))
        if measured:
            correct(edge_id, partial(_edge, workload=workload, work=list(measured.values())))
    return list(known.values()), tuple(notes)


def _client(kept: Profile, *, edge_id: str, workload: Workload, work: Sequence[Measured]) -> Profile:
    if kept.client is None:
        return kept
    return replace(kept, client=client_as_measured(kept.client, edge_id, workload, work))


def _edge(kept: Profile, *, workload: Workload, work: Sequence[Sequence[Measured]]) -> Profile:
    if kept.edge is None:
        return kept
    return replace(kept, edge=edge_as_measured(kept.edge, work, workload.row_share))


def _measured(reports: Sequence[ClientReport], blocks: int) -> dict[str, list[Measured]]:
    """By client, the steps of those edge rounds of which it said how the model was cut."""
    found: dict[str, list[Measured]] = {}
    for report in reports:
        cut = _cut(report.split)
        if report.steps and cut is not None and cut.blocks == blocks:
            work = Measured(split=cut, steps=report.steps, seconds=report.seconds)
            found.setdefault(report.client_id, []).append(work)
    return found


def _cut(text: str) -> Split | None:
    """bottom/trunk/top, None where that is not said or impossible."""
    try:
        bottom, trunk, top = map(int, text.split("/"))
        return Split(bottom=bottom, trunk=trunk, top=top)
    except (ValueError, SplitError):
        return None

"""What an edge tells the cloud of a global round, gathered over its edge rounds, and is told of its clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from google.protobuf.message import DecodeError

from elsa.aggregate.fednova import averaged
from elsa.errors import MalformedError
from elsa.model.adapter_config import AdapterConfig
from elsa.v1 import adapter_pb2, fleet_pb2
from services.edge.own_trunks import Adapter
from services.edge.parts import Closed, Part, Standing, check_fit
from services.edge.saved import Made, OfCluster

LEAST = 2
"""Clients behind an adapter that goes to the cloud, where the edge has so many at all."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """One push of a delivery."""

    cluster: int | None
    """Whose clients alone made it; None for clients of several."""
    adapter: Adapter = field(repr=False)
    rows: int
    steps: float = 0.0
    """Of all edge rounds, as `Part.steps`, but as few as can be evened out at least."""
    reports: tuple[adapter_pb2.ClientReport, ...] = field(repr=False)


class Delivery:
    """What each cluster's clients have made of a version up to now.

    Args:
        start: the run's adapter of the version, from which all began.
        together: between edge rounds the clusters go on from the mean of what they made, not each from its own.
        least_steps: that a parcel counts for, however few of its edge rounds moved it; 0 where steps are not counted.
    """

    def __init__(self, start: Adapter, *, together: bool = False, least_steps: float = 0.0) -> None:
        self._start = self._mean = start
        self._together = together
        self._least_steps = least_steps
        self._mean_steps = 0.0
        self._steps: dict[int, float] = {}
        self.adapters: dict[int, Adapter] = {}
        """By cluster, the newest; a cluster none of whose clients delivered is not in it."""
        self._newest: dict[int, Part] = {}
        self._reports: dict[int, list[adapter_pb2.ClientReport]] = {}
        self.cut_short = False
        """An edge round was closed by its deadline, before the quorum of its clients had delivered."""

    def add(self, closed: Closed) -> None:
        """Take the next edge round."""
        self.cut_short = self.cut_short or closed.cut_short
        for cluster, part in closed.parts.items():
            begun = self._mean_steps if self._together else self._steps.get(cluster, 0.0)
            self._steps[cluster] = begun + part.steps
            self.adapters[cluster] = part.adapter
            self._newest[cluster] = part
            self._reports.setdefault(cluster, []).extend(_reports(part))
        if self._together:
            self._mean, steps = mean_of(closed, self._mean)
            self._mean_steps += steps

    def go_on(self) -> tuple[Adapter, Mapping[int, Adapter]]:
        """What the next edge round begins from: the adapter, and those of clusters with their own."""
        return (self._mean, {}) if self._together else (self._start, self.adapters)

    def made(self) -> Made:
        """All of it, from which `resume` goes on."""
        return Made(
            of_clusters={
                cluster: OfCluster(rows=part.rows, clients=part.clients, steps=self._steps[cluster])
                for cluster, part in self._newest.items()
            },
            adapters=self.adapters,
            reports={
                cluster: adapter_pb2.ClientReports(reports=reports).SerializeToString()
                for cluster, reports in self._reports.items()
            },
            mean=self._mean if self._together else None,
            mean_steps=self._mean_steps,
            cut_short=self.cut_short,
        )

    def resume(self, made: Made) -> None:
        """Go on as the delivery of the same start that made this. Raises MalformedError for what does not fit it."""
        for adapter in (*made.adapters.values(), *([made.mean] if made.mean else [])):
            check_fit(adapter, self._start)
        self._mean, self._mean_steps = made.mean or self._start, made.mean_steps
        self.cut_short = made.cut_short
        for cluster, of_cluster in made.of_clusters.items():
            adapter = self.adapters[cluster] = made.adapters[cluster]
            self._steps[cluster] = of_cluster.steps
            self._newest[cluster] = Part(
                adapter=adapter, rows=of_cluster.rows, clients=of_cluster.clients, reports=()
            )
            self._reports[cluster] = _decoded(made.reports[cluster])

    def parcels(self) -> list[Parcel]:
        """What is pushed: an adapter a cluster, and one of all clusters together that are too small to stand alone.

        The adapter of a cluster with one client here is that client's own: it goes to the cloud only mixed with
        others', with those of the next smallest cluster if it is the only such one. It goes as it is where the edge
        has no other cluster. Of clusters all of whose clients are set aside the reports alone are pushed.
        """
        counted = [cluster for cluster in sorted(self._newest) if self._newest[cluster].clients]
        if not counted:
            return [self._mixed(sorted(self._newest))] if self._newest else []
        by_size = sorted(counted, key=lambda cluster: self._newest[cluster].clients)
        small = [cluster for cluster in by_size if self._newest[cluster].clients < LEAST]
        small = by_size[: max(len(small), 2)] if small and len(counted) > 1 else []
        made = [self._parcel(cluster) for cluster in counted if cluster not in small]
        made += [self._mixed(sorted(small))] if small else []
        aside = [report for cluster in self._newest.keys() - set(counted) for report in self._reports[cluster]]
        return [replace(made[0], reports=(*made[0].reports, *aside)), *made[1:]]

    def _parcel(self, cluster: int) -> Parcel:
        part = self._newest[cluster]
        return Parcel(
            cluster=cluster,
            adapter=part.adapter,
            rows=part.rows,
            steps=self._steps_of(cluster),
            reports=tuple(self._reports[cluster]),
        )

    def _mixed(self, clusters: Sequence[int]) -> Parcel:
        """One parcel of several clusters."""
        parts = {cluster: self._newest[cluster] for cluster in clusters}
        adapter, steps = averaged(
            self._start,
            {f"{c:06}": (float(part.rows), self._steps_of(c), part.adapter) for c, part in parts.items()},
        )
        return Parcel(
            cluster=None,
            adapter=adapter,
            rows=sum(part.rows for part in parts.values()),
            steps=steps,
            reports=tuple(report for cluster in clusters for report in self._reports[cluster]),
        )

    def _steps_of(self, cluster: int) -> float:
        return max(self._steps[cluster], self._least_steps)


def mean_of(closed: Closed, before: Adapter) -> tuple[Adapter, float]:
    """The mean of what all clusters made of `before` in an edge round, by rows and steps, and the steps of it.

    `before` itself, and 0 steps, where nobody delivered who is trusted.
    """
    parts = {str(c): (float(part.rows), part.steps, part.adapter) for c, part in closed.parts.items() if part.clients}
    return averaged(before, parts) if parts else (before, 0.0)


def reported(made: Made) -> frozenset[str]:
    """The clients that had a part in what was made. Raises MalformedError for reports that are none."""
    return frozenset(report.client_id for reports in made.reports.values() for report in _decoded(reports))


def _decoded(reports: bytes) -> list[adapter_pb2.ClientReport]:
    try:
        return list(adapter_pb2.ClientReports.FromString(reports).reports)
    except DecodeError as error:
        raise MalformedError(f"reports: {error}") from error


def _reports(part: Part) -> list[adapter_pb2.ClientReport]:
    """The clients' reports as the cloud is told them, each with how far its adapter moved."""
    messages = []
    for report in part.reports:
        message = adapter_pb2.ClientReport.FromString(report.message)
        message.moved[:] = part.moved.get(report.client, ())
        messages.append(message)
    return messages


def standings_of(assignment: fleet_pb2.Assignment) -> dict[str, Standing]:
    """How each client counts; empty where the cloud says nothing of it.

    Raises MalformedError for standings that are not one a client, or trust that is not within 0 to 1.
    """
    clients, standings = assignment.client_ids, assignment.standings
    if standings and len(standings) != len(clients):
        raise MalformedError(
            f"assignment.standings: {len(standings)} for {len(clients)} clients; it needs one for each"
        )
    if odd := [standing.trust for standing in standings if not 0 <= standing.trust <= 1]:
        raise MalformedError(f"assignment.standings.trust: {odd[0]}; it must be within 0 to 1")
    return {
        client: Standing(cluster=standing.cluster, trust=standing.trust)
        for client, standing in zip(clients, standings, strict=False)
    }


def offered_rows_of(assignment: fleet_pb2.Assignment) -> dict[str, int]:
    """The rows that each client offered; empty where the cloud says nothing of it.

    Raises MalformedError for rows that are not one number a client.
    """
    clients, rows = assignment.client_ids, assignment.train_rows
    if rows and len(rows) != len(clients):
        raise MalformedError(f"assignment.train_rows: {len(rows)} for {len(clients)} clients; it needs one for each")
    return dict(zip(clients, rows, strict=False))


def away_of(assignment: fleet_pb2.Assignment) -> set[str]:
    """The clients that are not waited for now; none where the cloud says nothing of it.

    Raises MalformedError where it does not say it of each client.
    """
    clients, away = assignment.client_ids, assignment.away
    if away and len(away) != len(clients):
        raise MalformedError(f"assignment.away: {len(away)} for {len(clients)} clients; it needs one for each")
    return {client for client, is_away in zip(clients, away, strict=False) if is_away}


def config_to_proto(config: AdapterConfig) -> adapter_pb2.AdapterConfig:
    """The settings of an adapter as their message."""
    return adapter_pb2.AdapterConfig(
        rank=config.rank,
        alpha=config.alpha,
        target_modules=config.targets,
        modules_to_save=config.modules_to_save,
        task=config.task,
        base_model=config.base,
        transposed=config.transposed,
    )

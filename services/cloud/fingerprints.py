"""Gives clients their probes and takes their fingerprints, checked, in time or late."""

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from elsa.cluster.fingerprint import asking_order, check_fingerprint
from elsa.data.probes import probes_of, probes_sha256
from elsa.errors import MalformedError, PermissionDeniedError, RoundGivenUpError, StaleRoundError
from elsa.spec import RunSpec
from services.cloud.changes import Changes
from services.cloud.clustering import LATE_AMONG, answered_again, joins
from services.cloud.engine import Engine
from services.cloud.events import TrustChanged
from services.cloud.fleet import MOST, check_number
from services.cloud.keys import works
from services.cloud.lifecycle import RunState
from services.cloud.records import Clustering, Fingerprint, Run, Standing
from services.cloud.runs import member_of
from services.cloud.store import Store, Transaction

SUMS_TO = 1e-3
"""How far the probabilities of one probe may be from 1 in sum."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a client is asked."""

    probes: tuple[str, ...]
    """In its own order, repeats included."""
    sha256: str
    """Of the whole set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Upload:
    """What a client sends, its values not yet checked."""

    run_id: str
    client_id: str
    version: int = 0
    probes_sha256: str
    embeddings: NDArray[np.float32]
    """(places, dimensions)."""
    probabilities: NDArray[np.float32] | None
    """(places, labels)."""


class Fingerprints:
    """The fingerprints of all runs."""

    def __init__(self, store: Store, engine: Engine, changes: Changes, *, clock: Callable[[], float]) -> None:
        self._store, self._engine, self._changes, self._clock = store, engine, changes, clock

    def probes(self, run_id: str, client_id: str) -> Asked:
        """The probes for a client, always the same and in the same order.

        Raises:
            NotFoundError: an unknown run or node.
            PermissionDeniedError: a node that is no client of the run.
            StaleRoundError: a run that does not warm up yet, or does not cluster.
            RoundGivenUpError: a run that has ended.
        """
        with self._store.transaction() as transaction:
            spec = RunSpec.from_yaml(_clustering_run(transaction, run_id, client_id).spec)
        known = probes_of(spec.clustering.probes)
        asked = tuple(known[probe] for probe in order_of(spec, client_id))
        return Asked(probes=asked, sha256=probes_sha256(known))

    async def take(self, upload: Upload) -> None:
        """Keep a fingerprint; it replaces the one before until the decision that it is for has been made.

        One of the warm-up that comes later has to be the first, and its client joins the nearest cluster. The same
        one may come twice until the next decision forgets it.

        Raises: as `probes`, MalformedError for another probe set, version, shape or values, and StaleRoundError for
        one that comes too late, or of a version after which nobody is asked.
        """
        check_number("version", upload.version, 0, MOST)
        with self._store.transaction() as transaction:
            run = _clustering_run(transaction, upload.run_id, upload.client_id)
        sent = await asyncio.to_thread(_checked, RunSpec.from_yaml(run.spec), upload, self._clock())
        with self._store.transaction() as transaction:
            run = _clustering_run(transaction, upload.run_id, upload.client_id)
            late = run.state is RunState.TRAINING and sent.version == 0
            if not _is_new(transaction, run, sent):
                return
            if not late:
                transaction.put(sent)
        if late:
            await self._join(run, sent)
        self._engine.kick(run.run_id)

    async def _join(self, run: Run, sent: Fingerprint) -> None:
        with self._store.transaction() as transaction:
            made = transaction.all(Clustering, run_id=run.run_id)[0]
            others = transaction.some_fingerprints(run.run_id, 0, LATE_AMONG)
            found = [
                transaction.get(Fingerprint, run_id=run.run_id, version=0, client_id=medoid)
                for medoid in made.medoids
            ]
        medoids = [medoid for medoid in found if medoid is not None]
        spec = RunSpec.from_yaml(run.spec)
        cluster, parts = await asyncio.to_thread(joins, spec, sent, others, medoids)
        with self._store.transaction() as transaction:
            run = _clustering_run(transaction, run.run_id, sent.client_id)
            if not _is_new(transaction, run, sent):
                return
            before = transaction.all(Standing, run_id=run.run_id, client_id=sent.client_id)[0]
            stands = _joined(answered_again(before, parts, weighed=spec.trust.enabled), cluster)
            transaction.put(sent)
            transaction.put(stands)
            event = TrustChanged(
                client_id=sent.client_id,
                trust=stands.trust,
                set_aside=stands.set_aside,
                detail=stands.detail,
                parts=stands.parts,
            )
            transaction.append(run.run_id, event, self._clock())
            edge_id = member_of(transaction, run.run_id, sent.client_id).edge_id
        self._changes.notify(("events", run.run_id), ("node", edge_id or ""))


def _joined(standing: Standing, cluster: int) -> Standing:
    """How a late client stands in the cluster that it joins."""
    aside = "; still set aside" if standing.set_aside else ""
    detail = f"came late, joins cluster {cluster}, the nearest, trust {standing.trust:.2f}{aside}"
    return replace(standing, cluster=cluster, told=standing.trust, detail=detail)


def order_of(spec: RunSpec, client_id: str) -> list[int]:
    """The probe at each place of a client's order."""
    probes = spec.clustering.probes
    order: list[int] = asking_order(
        probes.count, probes.repeated, [spec.seed, zlib.crc32(client_id.encode())]
    ).tolist()
    return order


def _clustering_run(transaction: Transaction, run_id: str, client_id: str) -> Run:
    """A run that takes fingerprints of this client. Raises as `Fingerprints.probes`."""
    run, member = transaction.run(run_id), member_of(transaction, run_id, client_id)
    if run.state.ended:
        raise RoundGivenUpError(f"run {run_id} has ended ({run.state})")
    if run.state not in (RunState.WARMUP, RunState.CLUSTERING, RunState.TRAINING):
        raise StaleRoundError(f"run {run_id} is {run.state}; fingerprints are taken once it warms up")
    if transaction.get(Clustering, run_id=run_id) is None:
        raise StaleRoundError(f"run {run_id} does not cluster its clients; go on without a fingerprint")
    if not works(member):
        raise PermissionDeniedError(f"{client_id} is no client of run {run_id} ({member.answer})")
    return run


def _is_new(transaction: Transaction, run: Run, sent: Fingerprint) -> bool:
    """Whether a fingerprint is to be kept; False if it is there. Raises StaleRoundError as `Fingerprints.take`."""
    kept = transaction.get(Fingerprint, run_id=run.run_id, version=sent.version, client_id=sent.client_id)
    if kept is not None and (kept.embeddings, kept.probabilities) == (sent.embeddings, sent.probabilities):
        return False
    if sent.version:
        _check_asked(run, sent)
        return True
    made = transaction.all(Clustering, run_id=run.run_id)[0]
    if made.version:
        raise StaleRoundError(f"run {run.run_id} has clustered anew since its warm-up; answer when it is asked again")
    if kept is None or run.state is RunState.WARMUP:
        return True
    raise StaleRoundError(
        f"run {run.run_id} is {run.state} and has a fingerprint of {sent.client_id}; a second one is too late"
    )


def _check_asked(run: Run, sent: Fingerprint) -> None:
    """Raise StaleRoundError unless it is for the version that is in the making, by which clients are grouped anew."""
    being_made = run.version is not None and run.state is RunState.TRAINING and run.version + 1 == sent.version
    asked = RunSpec.from_yaml(run.spec).clustering.renews(sent.version, run.rounds)
    if not (being_made and asked):
        raise StaleRoundError(
            f"run {run.run_id} is {run.state} at version {run.version} and asks for no fingerprint for version "
            f"{sent.version}; go on without"
        )


def _checked(spec: RunSpec, upload: Upload, now: float) -> Fingerprint:
    known = probes_sha256(probes_of(spec.clustering.probes))
    if upload.probes_sha256 != known:
        raise MalformedError(
            f"probes_sha256: {upload.probes_sha256[:64]!r}, the run's is {known}; answer those that are asked"
        )
    asked = order_of(spec, upload.client_id)
    check_fingerprint(upload.embeddings, len(asked), spec.clustering.dimensions)
    labels = len(spec.data.labels) if spec.model.task == "classification" else 0
    _check_probabilities(upload.probabilities, len(asked), labels)
    said = upload.probabilities
    return Fingerprint(
        run_id=upload.run_id,
        client_id=upload.client_id,
        version=upload.version,
        arrived_unix_s=now,
        asked=tuple(asked),
        dimensions=spec.clustering.dimensions,
        embeddings=upload.embeddings.astype("<f4").tobytes(),
        labels=labels,
        probabilities=None if said is None else said.astype("<f4").tobytes(),
    )


def _check_probabilities(probabilities: NDArray[np.float32] | None, asked: int, labels: int) -> None:
    """Raise MalformedError unless each place has a probability of each label, and none where there are no labels."""
    if probabilities is None and labels:
        raise MalformedError("probabilities: none; a client of a run for classification sends what its head says")
    if probabilities is None:
        return
    if probabilities.shape != (asked, labels):
        raise MalformedError(f"probabilities: shape {probabilities.shape}; it must be ({asked}, {labels})")
    if not (np.isfinite(probabilities).all() and (probabilities >= 0).all()):
        raise MalformedError("probabilities: holds NaN, infinity or values below 0")
    sums = probabilities.astype(np.float64).sum(axis=1)
    if (worst := np.abs(sums - 1).max()) > SUMS_TO:
        raise MalformedError(f"probabilities: a row is {worst:.3g} away from 1 in sum; at most {SUMS_TO} is taken")

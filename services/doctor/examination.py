"""All checks of one machine in their order; each runs whatever others found, unless it needs what they lack."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from services.doctor import model, own, room, stores
from services.doctor.bounded import within
from services.doctor.finding import Finding, Kind
from services.doctor.listening import check_listening
from services.doctor.peer import Peer
from services.doctor.subject import Instruments, Subject
from services.doctor.visit import Visit

LOOK_S = 120.0
"""For looking at a model and counting what it takes, which is no matter of the network."""
AT_ONCE = 16


def examine(subject: Subject, by: Instruments | None = None) -> Iterator[Finding]:
    """Every finding, as it is made."""
    by = by or Instruments()
    mine = own.check_own(subject.files, subject.role, subject.name, by.clock())
    visit = Visit(subject, by, mine)
    if subject.cloud is not None:
        yield from visit.of(subject.cloud)
    else:
        yield from mine.findings
    yield from _served(subject, visit)
    yield from _model_and_memory(subject, by)
    yield from room.check_disks(subject.folders, by.usage)
    if subject.database_url:
        yield stores.check_database(subject.database_url, subject.timeout_s)
    if subject.blobs_url:
        yield stores.check_blobs(subject.blobs_url, subject.timeout_s)
    yield from _edges(subject, visit)


def _served(subject: Subject, visit: Visit) -> Iterator[Finding]:
    """Where this machine is to serve: whether it can, or who serves there."""
    if subject.listener is None:
        return
    found = check_listening(subject.listener, tls=subject.files is not None, insecure=subject.insecure)
    yield from found.findings
    if found.taken:
        yield from visit.of(subject.listener.peer, again=True)


def _edges(subject: Subject, visit: Visit) -> Iterator[Finding]:
    """Edges that are named here, and those that the cloud tells an admin; many at once."""

    def looked(peer: Peer) -> list[Finding]:
        return list(visit.of(peer, again=True))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for found in pool.map(looked, subject.edges):
            yield from found
        if subject.cloud is not None and visit.cloud_answers and subject.role == "admin" and subject.asks_edges:
            listed, peers = visit.edges(subject.cloud)
            yield from listed
            for found in pool.map(looked, peers):
                yield from found


def _model_and_memory(subject: Subject, by: Instruments) -> Iterator[Finding]:
    looked = model.Model(finding=_unnamed(subject))
    if subject.model:
        try:
            looked = within(
                LOOK_S,
                lambda: model.check_model(
                    subject.model, subject.spec, subject.role, subject.models, subject.timeout_s
                ),
            )
        except TimeoutError as error:
            late = Finding(
                kind=Kind.MODEL, verdict="bad", what=f"looking at it {error}", remedy="see whether its disk answers"
            )
            looked = model.Model(finding=late)
    yield looked.finding
    try:
        yield within(LOOK_S, lambda: _memory(subject, looked, by))
    except TimeoutError as error:
        yield Finding(kind=Kind.MEMORY, verdict="warn", what=f"counting what the model takes {error}")


def _memory(subject: Subject, looked: model.Model, by: Instruments) -> Finding:
    name = subject.name or subject.role
    return room.check_memory(
        subject.spec, looked.checkpoint, subject.role, name, subject.max_memory_mib, by.available
    )


def _unnamed(subject: Subject) -> Finding:
    what = "a cloud holds no model" if subject.role == "cloud" else "no model is named (--model or --spec)"
    return Finding(kind=Kind.MODEL, verdict="skipped", what=what)

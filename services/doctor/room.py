"""Whether there is memory and disk: what is free, what bounds it, and what a run would take at its split."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elsa.errors import ElsaError
from elsa.plan.admission import check_client_fits, sized
from elsa.plan.memory import client_needs
from elsa.plan.shape import Workload
from elsa.spec import RunSpec
from services.doctor.finding import Finding, Kind, Verdict, parted
from services.rpc.identity import Role
from services.rpc.memory import available_bytes, usable_bytes

if TYPE_CHECKING:
    from elsa.model.weights import Checkpoint

LITTLE_MEMORY_BYTES = 512 << 20
LEAST_DISK_BYTES, LITTLE_DISK_BYTES = 64 << 20, 1 << 30


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Where a role writes, and what for.

    Attributes:
        named_by: the setting or the flag that says where.
        needed: whether it can do nothing without it.
    """

    path: Path
    use: str
    named_by: str = "the settings"
    needed: bool = True


def check_memory(
    spec: RunSpec | None,
    checkpoint: Checkpoint | None,
    role: Role,
    name: str,
    max_memory_mib: int | None,
    available: Callable[[], int | None] = available_bytes,
) -> Finding:
    """Memory that may be used, against what a run takes of an edge or a client."""
    there = available()
    if there is None and max_memory_mib is None:
        return _memory("warn", "this system does not tell how much memory is free", "set max_memory_mib")
    usable = usable_bytes(max_memory_mib, there)
    what = f"{sized(usable)} may be used" + (f", of {sized(there)} free" if there not in (None, usable) else "")
    if spec is not None and checkpoint is not None and role in ("edge", "client"):
        try:
            return _memory("good", f"{what}; {_needed(spec, checkpoint, role, name, usable)}")
        except ElsaError as error:
            return _memory("bad", *parted(error))
    if spec is not None and role in ("edge", "client"):
        what += f"; what {spec.name} takes is not known without its model"
    if usable < LITTLE_MEMORY_BYTES and role != "admin":
        return _memory("warn", what, f"most roles want more than {sized(LITTLE_MEMORY_BYTES)}; see docs/deploy.md")
    return _memory("good", what)


def check_disk(folder: Folder, usage: Callable[[Path], Any] = shutil.disk_usage) -> Finding:
    """Whether a folder, or that in which it would be made, can be written, and how much is free there."""
    what = f"{folder.path} ({folder.use})"
    worst: Verdict = "bad" if folder.needed else "warn"
    another = f"name another folder by {folder.named_by}"
    try:
        place = next(path for path in (folder.path.absolute(), *folder.path.absolute().parents) if path.exists())
        if not place.is_dir():
            return _disk(worst, f"{what}: {place} is no folder", another)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0")
        free = int(usage(place).free)
    except OSError as error:
        remedy = f"make it writable for user {os.geteuid()}, or {another}"
        return _disk(worst, f"{what}: cannot be written ({error.strerror})", remedy)
    said = f"{what}: {sized(free)} free"
    if free < LEAST_DISK_BYTES:
        return _disk(worst, said, f"free some, or {another}, on another disk")
    return _disk(
        "warn" if free < LITTLE_DISK_BYTES else "good", said, "" if free >= LITTLE_DISK_BYTES else "free some"
    )


def check_disks(folders: Sequence[Folder], usage: Callable[[Path], Any] = shutil.disk_usage) -> list[Finding]:
    """`check_disk` of each."""
    return [check_disk(folder, usage) for folder in folders]


def _needed(spec: RunSpec, checkpoint: Checkpoint, role: Role, name: str, usable: int) -> str:
    """What a run takes here. Raises CapacityError where that is not there, with the figures; ElsaError."""
    from elsa.model.adapter import adapter_config
    from elsa.train.sizes import model_shape

    config = adapter_config(checkpoint, spec.lora, spec.model.task, len(spec.data.labels))
    shape = model_shape(spec, checkpoint, config)
    if role == "edge":
        from services.edge.fit import Fit

        fit = Fit.of(spec, shape, usable)
        fit.check()
        return f"{spec.name} has room for {fit.sessions} session{'s' * (fit.sessions != 1)}"
    split = spec.split_of(name, shape.blocks)
    workload = Workload.of(spec, shape.width, spec.model.max_tokens)
    check_client_fits(shape, workload, split, usable, name)
    needed = client_needs(shape, workload).of(split.bottom, split.top).total
    least = " (the least: its split is planned)" if spec.plans_splits else ""
    return f"{spec.name} takes {sized(needed)} for bottom {split.bottom} and top {split.top}{least}"


def _memory(verdict: Verdict, what: str, remedy: str = "") -> Finding:
    return Finding(kind=Kind.MEMORY, verdict=verdict, what=what, remedy=remedy)


def _disk(verdict: Verdict, what: str, remedy: str = "") -> Finding:
    return Finding(kind=Kind.DISK, verdict=verdict, what=what, remedy=remedy)

"""What a machine is to be, whom it must reach, and by what is measured there."""

import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elsa.spec import RunSpec
from services.doctor import network, room
from services.doctor.listening import Listener
from services.doctor.peer import Peer
from services.rpc.identity import Role
from services.rpc.keypair import TlsFiles
from services.rpc.memory import available_bytes


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a machine is to be, and whom it must reach.

    Attributes:
        name: None: whatever name its certificate says.
        cloud: None: nobody is asked.
        listener: where it serves, of a cloud or an edge.
        edges: those that it must reach itself; an admin asks the cloud for the others if `asks_edges`.
        model: the model to look at; empty: none.
        models: where this site has models.
        database_url, blobs_url: of a cloud; empty: both are in its state.
    """

    role: Role
    name: str | None = None
    cloud: Peer | None = None
    listener: Listener | None = None
    edges: tuple[Peer, ...] = ()
    asks_edges: bool = True
    files: TlsFiles | None = None
    insecure: bool = False
    model: str = ""
    spec: RunSpec | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    max_memory_mib: int | None = None
    folders: tuple[room.Folder, ...] = ()
    database_url: str = ""
    blobs_url: str = ""
    timeout_s: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """By what is measured."""

    clock: Callable[[], float] = time.time
    look_up: network.LookUp = socket.getaddrinfo
    available: Callable[[], int | None] = available_bytes
    usage: Callable[[Path], Any] = shutil.disk_usage

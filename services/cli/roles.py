"""`elsa cloud`, `elsa edge`, `elsa client`: one role as a process, configured by flags, environment or a file."""

import importlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from services.cli.flags import merged, with_flags
from services.client.settings import ClientSettings
from services.cloud.settings import CloudSettings
from services.edge.settings import EdgeSettings
from services.rpc.process import set_up_logging

SPINS = "30000"
"""How long an idle compute thread spins before it sleeps: GNU OpenMP's default keeps a core busy for milliseconds,
which a peer on the same machine needs at just that time (docs/log.md)."""

LARGE_PAGES = "1"
"""Whether torch asks the system for large pages for large tensors. A client gets new memory for each of them,
which in pages of 4 KiB took a tenth of what it computes in a step (docs/log.md)."""

SOURCES = "Every flag can also be set in the environment (--port as ELSA_PORT) or in the file of --config."

CLOUD = f"""Serve the cloud: it keeps the fleet and the runs, and aggregates adapters.

{SOURCES}

Example: elsa cloud --port 7400 --state elsa-state/cloud
"""
EDGE = f"""Serve an edge: it holds the middle blocks of the model and trains them with its clients.

{SOURCES}

Example: elsa edge --name plant-north --cloud cloud.example:7400 --capacity 8 --threads 4
"""
CLIENT = f"""Run a client: it offers its rows to runs, and keeps the text, the labels and the ends of the model.

{SOURCES}

Example: elsa client --name ward-7 --cloud cloud.example:7400 --data notes=notes.jsonl --threads 2
"""


def add_to(app: typer.Typer) -> None:
    """Add the three commands."""
    kinds: dict[str, tuple[type[BaseModel], str]] = {
        "cloud": (CloudSettings, CLOUD),
        "edge": (EdgeSettings, EDGE),
        "client": (ClientSettings, CLIENT),
    }
    for role, (kind, text) in kinds.items():
        app.command(role, help=text)(with_flags(kind, partial(serve, role, kind)))


def serve(role: str, kind: type[BaseModel], given: Mapping[str, Any], file: Path | None) -> None:
    """Run a role until it is told to stop. Raises SpecError, and what the role's `run` raises."""
    settings = merged(kind, given, file, role)
    threads = getattr(settings, "threads", None)
    if threads is not None:  # read by the compute kernels when they are loaded, which is below
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", LARGE_PAGES)
    set_up_logging()
    importlib.import_module(f"services.{role}.service").run(settings)

"""`elsa cloud`, `elsa edge`, `elsa client`: one role as a process, configured by flags, environment or a file."""

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
from services.rpc.process import run_role

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
    run_role(f"services.{role}.service", merged(kind, given, file, role))

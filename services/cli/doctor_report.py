"""What `elsa doctor` found, as a table on a terminal, as lines elsewhere, or as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.doctor.finding import Finding, Verdict, exit_code
from services.rpc.introduction import own_version

STYLES: dict[Verdict, str] = {"good": "green", "warn": "yellow", "bad": "bold red", "skipped": "dim"}


def report(role: str, findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print all findings."""
    if as_json:
        told = [asdict(finding) for finding in findings]
        typer.echo(
            json.dumps(
                {"role": role, "version": own_version(), "exit_code": exit_code(findings), "findings": told},
                ensure_ascii=False,
            )
        )
        return
    console = Console()
    if console.is_terminal:
        console.print(_table(findings))
        console.print(_summary(findings), markup=False, highlight=False)
    else:
        for finding in findings:
            typer.echo(_line(finding))
        typer.echo(_summary(findings))


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "check", "of", "found"):
        table.add_column(heading, no_wrap=heading in ("", "check"))
    for finding in findings:
        found = Text(_visible(finding.what))
        if finding.remedy:
            found.append(f"\n→ {_visible(finding.remedy)}", style="italic")
        verdict = Text(finding.verdict, style=STYLES[finding.verdict])
        table.add_row(verdict, Text(finding.kind), Text(_visible(finding.of)), found)
    return table


def _line(finding: Finding) -> str:
    said = f"{finding.verdict:<8}{finding.kind:<9}{_visible(finding.of)}: {_visible(finding.what)}"
    return f"{said}; remedy: {_visible(finding.remedy)}" if finding.remedy else said


def _summary(findings: Sequence[Finding]) -> str:
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in STYLES}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def _visible(text: str) -> str:
    """On one line, without what might steer a terminal: peers say some of it."""
    return "".join(letter if letter.isprintable() else "�" for letter in " ".join(text.split()))

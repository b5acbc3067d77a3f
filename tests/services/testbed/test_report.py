"""The report of a demo: bytes are held against what the clients counted, and what says little is said to."""

import json
from pathlib import Path

import pytest

from elsa.v1 import adapter_pb2
from services.cli.demo import _print
from services.cli.versions import Evaluated, Version, rounds_table
from services.testbed.report import Report, write_report
from services.testbed.yardsticks import Yardsticks

MARKS = Yardsticks(adapter=0.2, majority=0.3, frozen_head=0.6, frozen_head_rows=100, test_rows=50)


def did(up: int, down: int, float32: int) -> adapter_pb2.ClientReport:
    return adapter_pb2.ClientReport(
        client_id="c", steps=2, loss=1.0, bytes={"up": up, "down": down}, float32_bytes=float32
    )


def report_of(*rounds: list[adapter_pb2.ClientReport], turned: bool = False) -> Report:
    versions = {0: Version(accuracy=0.1, loss=2.0)}
    for number, reports in enumerate(rounds, start=1):
        versions[number] = Version(accuracy=0.5, loss=1.0, seconds=1.0, reports=reports)
    return Report(settings={}, versions=versions, yardsticks=MARKS, seconds=9.0, trunk_is_turned=turned)


def said_of(report: Report, capsys: pytest.CaptureFixture[str]) -> str:
    _print(report, Path("out"))
    return capsys.readouterr().out


def test_the_saving_is_that_of_all_clients_and_rounds_together(tmp_path, capsys):
    report = report_of([did(600, 400, 8_000), did(1000, 0, 16_000)], [did(1000, 1000, 40_000)])
    assert (report.wire_bytes, report.float32_bytes, report.saving) == (4000, 64_000, 16)
    write_report(report, tmp_path)
    kept = json.loads((tmp_path / "report.json").read_text())
    assert (kept["wire_bytes"], kept["float32_bytes"]) == (4000, 64_000)
    assert [each["float32_bytes"] for each in kept["rounds"]] == [None, 24_000, 40_000]
    assert "4.0 kB of activations and gradients, 1/16.0 of the 64.0 kB that float32 takes" in said_of(report, capsys)


def test_no_saving_is_told_where_a_client_does_not_say_what_float32_takes(tmp_path, capsys):
    report = report_of([did(600, 400, 8_000), did(1000, 0, 0)], [did(1000, 1000, 40_000)])
    assert report.saving is None
    write_report(report, tmp_path)
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["float32_bytes"] is kept["rounds"][1]["float32_bytes"] is None
    assert "float32 takes" not in said_of(report, capsys)


def test_the_table_of_rounds_shows_both_sizes():
    from rich.console import Console

    console = Console(width=120, record=True)
    console.print(rounds_table(report_of([did(600, 400, 16_000)]).versions))
    row = console.export_text().splitlines()[-2].split()
    assert row[-5:] == ["1.0", "kB", "16.0", "kB", "1.0"]


@pytest.mark.parametrize("turned", [False, True])
def test_an_adapter_in_turned_coordinates_is_said_to_be_none_for_plain_peft(tmp_path, capsys, turned):
    report = report_of([did(600, 400, 8_000)], turned=turned)
    assert ("lives in\n  turned coordinates" in said_of(report, capsys)) == turned
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["trunk_is_turned"] == turned
    assert (tmp_path / "training.png").stat().st_size > 10_000


@pytest.mark.parametrize("own", [None, 0.75])
def test_nothing_of_the_table_of_rounds_is_cut_off_at_80_columns(own):
    from rich.console import Console

    versions = report_of([did(21_300_000, 0, 316_100_000)], [did(1_000_000_000, 0, 9_000_000_000)]).versions
    for version in versions.values():
        version.evaluations["c"] = Evaluated(rows=10, accuracy=0.5, own_accuracy=own)
    console = Console(width=80, record=True)
    console.print(rounds_table(versions))
    text = console.export_text()
    assert "…" not in text
    assert ("own" in text.split()) == (own is not None)
    assert "316.1" in text
    assert ("0.750" in text) == (own is not None)

"""Rows of a testbed of containers: each client's own, and all of them."""

import json
from pathlib import Path

from services.testbed.shares import main, share

OWNERS = [Path("client-small"), Path("replicas/client-1"), Path("replicas/client-2")]
ROWS = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(40)]


def rows_of(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_every_row_is_in_just_one_folder(tmp_path):
    share(tmp_path, OWNERS, ROWS)
    texts = [row["text"] for owner in OWNERS for row in rows_of(tmp_path / owner)]
    assert sorted(texts) == sorted(row["text"] for row in ROWS)
    assert all(len(rows_of(tmp_path / owner)) >= 2 for owner in OWNERS)


def test_the_same_owners_get_the_same_rows(tmp_path):
    for place in ("one", "two"):
        share(tmp_path / place, OWNERS, ROWS)
    for owner in OWNERS:
        assert rows_of(tmp_path / "one" / owner) == rows_of(tmp_path / "two" / owner)


def test_done_again_it_reads_no_corpus_and_keeps_what_is_there(tmp_path, monkeypatch):
    share(tmp_path, [Path("client-small"), Path("replicas/client-1")], ROWS)
    before = rows_of(tmp_path / "client-small")
    monkeypatch.setattr("services.testbed.shares.read_all", None)
    assert main([str(tmp_path), "client-small", "--replicas", "1"]) == 0
    assert rows_of(tmp_path / "client-small") == before


def test_a_client_that_is_new_gets_rows_and_each_row_is_in_one_folder_still(tmp_path, monkeypatch):
    share(tmp_path, [Path("client-small")], ROWS)
    monkeypatch.setattr("services.testbed.shares.read_all", lambda source: ROWS)
    assert main([str(tmp_path), "client-small", "--replicas", "1"]) == 0
    texts = [row["text"] for own in ("client-small", "replicas/client-1") for row in rows_of(tmp_path / own)]
    assert sorted(texts) == sorted(row["text"] for row in ROWS)
    assert rows_of(tmp_path / "replicas" / "client-1")


def test_who_reads_rows_while_they_are_shared_anew_reads_the_file_of_before_whole(tmp_path):
    share(tmp_path, OWNERS[:1], ROWS)
    path = tmp_path / OWNERS[0] / "rows.jsonl"
    before = path.read_text()
    with path.open() as reader:
        share(tmp_path, OWNERS, ROWS)
        assert reader.read() == before
    assert path.read_text() != before


def test_rows_that_cannot_be_written_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("services.testbed.shares.read_all", lambda source: ROWS)
    (tmp_path / "client-small").touch()
    assert main([str(tmp_path), "client-small"]) == 1
    said = capsys.readouterr().err
    assert "error: " in said
    assert "cannot be written" in said

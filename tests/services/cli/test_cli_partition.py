"""Sharing out: each row is in exactly one file, and the same seed gives the same files."""

import json

import pytest

ROWS = [{"text": f"text {n}", "label": "abc"[n % 3], "site": f"s{n % 5}"} for n in range(60)]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def files_of(folder):
    return {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in folder.iterdir()}


@pytest.mark.parametrize("way", [[], ["--iid"], ["--alpha", "0.3"], ["--by", "site"]], ids=str)
@pytest.mark.parametrize("holdout", ["0", "0.2"])
def test_every_row_is_in_exactly_one_file(elsa, source, tmp_path, way, holdout):
    for name in ("one", "two"):
        code, out, err = elsa(
            "data", "partition", source, "--parts", 4, "--to", tmp_path / name, "--holdout", holdout, *way
        )
        assert (code, err) == (0, "")
    files = files_of(tmp_path / "one")
    names = {f"client-{n}.jsonl" for n in range(1, 5)} | ({"test.jsonl"} if holdout != "0" else set())
    assert files.keys() == names
    assert sorted(row["text"] for rows in files.values() for row in rows) == sorted(row["text"] for row in ROWS)
    assert files == files_of(tmp_path / "two")
    assert len(files.get("test.jsonl", [])) == 60 * float(holdout)
    assert all(name in out for name in names)


def test_rows_of_equal_value_stay_together(elsa, source, tmp_path):
    elsa("data", "partition", source, "--parts", 5, "--by", "site", "--to", tmp_path / "shards")
    sites = [{row["site"] for row in rows} for rows in files_of(tmp_path / "shards").values()]
    assert sorted(map(sorted, sites)) == [["s0"], ["s1"], ["s2"], ["s3"], ["s4"]]


def test_labels_that_look_like_markup_are_shown_as_they_are(elsa, tmp_path):
    path = tmp_path / "marked.jsonl"
    path.write_text("".join(json.dumps({"text": "t", "label": f"[/{'ab'[n % 2]}]"}) + "\n" for n in range(8)))
    code, out, err = elsa("data", "partition", path, "--parts", 2, "--to", tmp_path / "shards")
    assert (code, err) == (0, "")
    assert "[/a]" in out
    assert "[/b]" in out

"""Every kind of source gives the same rows, and every fault is one line that says where and what to do."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from elsa.data.source import read_rows
from elsa.data.write import write_jsonl
from elsa.errors import DataError

ROWS = [
    {"text": "Ünïcode, commas", "label": "a"},
    {"text": 'quotes "inside"', "label": "b"},
    {"text": "two\nlines", "label": "a"},
]


def error_of(source: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_rows(str(source)))
    text = str(caught.value)
    assert "\n" not in text
    return text


def written(folder: Path, name: str) -> Path:
    """ROWS in the file `name`, in the format that its suffix says."""
    path = folder / name
    opened = gzip.open if name.endswith(".gz") else open
    if name.endswith(".parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
        return path
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        if ".csv" in name:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(ROWS)
        elif name.startswith("array"):
            json.dump(ROWS, file, indent=2)
        else:
            file.writelines(json.dumps(row) + "\n" for row in ROWS)
    return path


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.jsonl.gz", "lines.json", "array.json", "array.json.gz", "a.csv", "a.csv.gz", "a.parquet"],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    assert [dict(row) for _, row in read_rows(str(written(tmp_path, name)))] == ROWS


def test_a_folder_as_hugging_face_data_set_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "site"
    folder.mkdir()
    written(folder, "train.parquet")
    written(folder, "test.parquet")
    assert [dict(row) for _, row in read_rows(f"hf:{folder}")] == ROWS
    assert [dict(row) for _, row in read_rows(f"hf:{folder}:test[:2]")] == ROWS[:2]
    text = error_of(f"hf:{folder}:nosuch")
    assert "nosuch" in text and "check the name, the split" in text


def test_class_numbers_of_a_data_set_become_its_own_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    rows = {"text": ["x", "y", "z"], "label": [1, 0, -1]}
    (tmp_path / "site").mkdir()
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "site" / "train.parquet")
    assert [row["label"] for _, row in read_rows(f"hf:{tmp_path / 'site'}")] == ["pos", "neg", -1]


def test_a_missing_hugging_face_folder_is_named(tmp_path: Path) -> None:
    text = error_of(f"hf:{tmp_path / 'nothing' / 'there'}")
    assert "nothing" in text and "cannot be loaded" in text
    assert "no data set is named" in error_of("hf::train")


def test_numbers_are_the_lines_that_a_person_sees(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text('\n{"text": "x"}\n\n{"text": "y"}\n')
    assert [number for number, _ in read_rows(str(lines))] == [2, 4]
    table = tmp_path / "a.csv"
    table.write_text('text,label\n"one\ntwo",a\n\nthree,b\n')
    assert [number for number, _ in read_rows(str(table))] == [3, 5]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\nx,a\r\n")
    assert [dict(row) for _, row in read_rows(str(path))] == [{"text": "x", "label": "a"}]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl, line 2, column 9: invalid JSON"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', "a.jsonl, line 2: a row must be a JSON object, got list"),
        ("a.jsonl", b'{"text": "x"}\n"\xff"\n', "a.jsonl, line 2: not UTF-8"),
        ("a.jsonl", b"[" * 100_000, "line 1: JSON that cannot be read"),
        ("a.json", b'[{"text": "x"},\n oops]', "a.json, line 2, column 2: invalid JSON"),
        ("a.json", b'[{"text": "x"}, 3]', "a.json, row 2: a row must be a JSON object, got int"),
        ("a.csv", b"text,label\nx,a\ny\n", "a.csv, line 3: 1 fields under 2 columns"),
        ("a.csv", b'text,label\n"x" y,a\n', "a.csv, line 2: invalid CSV"),
        ("a.csv", b"text,text\n", "a.csv, line 1: a column name stands twice"),
        ("a.jsonl.gz", b"not gzip at all", "after line 0: broken gzip"),
        ("a.parquet", b"not parquet at all", "after row 0: broken Parquet"),
        ("a.txt", b"x", "unknown kind of data; give a file ending in .jsonl"),
        ("a.parquet.gz", b"x", "unknown kind of data"),
    ],
)
def test_a_fault_names_file_and_place(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    text = error_of(path)
    assert told in text and str(path) in text and ";" in text


def test_a_cut_gzip_names_the_last_good_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(20_000)))
    path.write_bytes(whole[: len(whole) // 2])
    text = error_of(path)
    assert "broken gzip" in text and "after line 0:" not in text


def test_missing_file_and_suffix_are_told_before_the_first_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; check the path"):
        read_rows(str(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match="unknown kind of data"):
        read_rows("a.xlsx")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "shard.jsonl"
    assert write_jsonl(path, ROWS) == 3
    assert list(read_rows(str(path))) == list(enumerate(ROWS, start=1))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    write_jsonl(path, ROWS)
    with pytest.raises(DataError, match="row 2: not writable as JSON"):
        write_jsonl(path, [{"text": "x"}, {"text": object()}])
    assert len(list(read_rows(str(path)))) == 3
    assert [child.name for child in tmp_path.iterdir()] == ["shard.jsonl"]


def test_shards_are_jsonl_in_a_folder_that_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"give a name that ends in \.jsonl"):
        write_jsonl(tmp_path / "a.csv", ROWS)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        write_jsonl(tmp_path / "file" / "a.jsonl", ROWS)

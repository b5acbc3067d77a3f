"""A cloud's database and blobs by URL: who lets us in, who does not, and no password in what is said."""

import sys
from pathlib import Path

import fsspec
import pytest

sys.path.append(str(Path(__file__).parent.parent / "cloud"))  # postgres_harness.py

from postgres_harness import postgres, why_not

from services.doctor.examination import examine
from services.doctor.stores import check_blobs, check_database
from services.doctor.subject import Subject


@pytest.fixture(scope="module")
def server():
    if reason := why_not():
        pytest.skip(reason)
    with postgres() as server:
        yield server


def test_a_database_that_lets_us_in_is_good_though_a_cloud_holds_its_lock(server):
    from services.cloud.database import Database

    url = server.url("held")
    database = Database(url)
    try:
        found = check_database(url, 10)
    finally:
        database.close()
    assert (found.kind, found.verdict) == ("store", "good") and "lets us in (PostgreSQL" in found.what


def test_a_database_that_is_not_there_is_bad(server):
    here = f"127.0.0.1:{server.port}"
    for url in (f"postgresql://elsa:hunter2@{here}/none", "postgresql://elsa:hunter2@127.0.0.1:1/none"):
        found = check_database(url, 5)
        assert found.verdict == "bad" and "lets nobody in" in found.what and "ELSA_DATABASE_URL" in found.remedy
        assert "hunter2" not in str(found)


@pytest.mark.parametrize("url", ["what", "postgresql://elsa:hun/ter2@db:x/elsa", "mysql://elsa:hunter2@db/elsa"])
def test_what_is_no_url_of_a_database_is_said_without_its_words(url):
    found = check_database(url, 1)
    assert found.verdict == "bad" and found.remedy and "ter2" not in str(found)


def test_a_database_in_a_file_is_looked_at_as_a_disk(tmp_path):
    assert check_database(f"sqlite:///{tmp_path / 'elsa.db'}", 1).verdict in ("good", "warn")
    (tmp_path / "file").touch()
    found = check_database(f"sqlite:///{tmp_path / 'file' / 'elsa.db'}", 1)
    assert (found.kind, found.verdict) == ("disk", "bad")
    assert check_database("sqlite://", 1).verdict == "warn"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_bucket_is_good_if_it_is_there(tmp_path):
    fsspec.filesystem("memory").makedirs("/doctored", exist_ok=True)
    assert check_blobs("memory://doctored/blobs", 5).verdict == "good"
    found = check_blobs("memory://none-such/blobs", 5)
    assert (found.kind, found.verdict) == ("store", "bad") and "ELSA_BLOBS_URL" in found.remedy
    found = check_blobs("gs-of-nobody://bucket", 5)
    assert found.verdict == "bad" and found.remedy
    assert check_blobs(f"file://{tmp_path}/blobs", 5).kind == "disk"


def test_a_cloud_without_urls_has_nothing_to_look_for():
    assert not [each for each in examine(Subject(role="cloud")) if each.kind == "store"]
    findings = list(examine(Subject(role="cloud", database_url="mysql://db/elsa", blobs_url="memory://none-such")))
    assert [each.verdict for each in findings if each.kind == "store"] == ["bad", "bad"]

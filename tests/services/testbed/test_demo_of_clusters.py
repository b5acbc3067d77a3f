"""A demo of clusters: what it plants, what it refuses, and what it tells of who learned with whom."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from elsa.errors import DataError
from services.cli.demo import _print_groups
from services.cli.shards import Plan, file_name, label_shares, share_out, write_folder
from services.cli.standings import Clusters, Standing
from services.cli.versions import Version
from services.testbed.report import Report, write_report
from services.testbed.settings import WITH_CLUSTERS, DemoSettings
from services.testbed.yardsticks import Yardsticks

MARKS = Yardsticks(adapter=0.2, majority=0.3, frozen_head=0.6, frozen_head_rows=100, test_rows=50)
ROWS = [{"text": f"text {n}", "label": "abcdef"[n % 6]} for n in range(600)]


def test_the_demo_groups_nobody_unless_it_is_told_to():
    plain = DemoSettings()
    assert (plain.clients, plain.rounds, plain.alpha) == (4, 6, 1.0)
    assert plain.run_spec(("a", "b")).clustering.method == "none"
    assert DemoSettings.model_validate({"clusters": False}) == plain


def test_a_demo_of_clusters_has_more_clients_that_are_more_unlike_unless_they_are_given():
    found = DemoSettings.model_validate({"clusters": True})
    assert {name: getattr(found, name) for name in WITH_CLUSTERS} == WITH_CLUSTERS
    assert found.run_spec(("a", "b")).groups_clients(found.edges)
    given = {"clients": "9", "rounds": "1", "alpha": "2"}
    told = DemoSettings.model_validate({"clusters": True, **given})
    assert (told.clients, told.rounds, told.alpha) == (9, 1, 2.0)


def test_probes_are_for_a_demo_of_clusters():
    with pytest.raises(ValidationError, match="give --clusters too"):
        DemoSettings.model_validate({"probes": "probes.txt"})
    mine = tuple(f"Sentence {n}." for n in range(9))
    spec = DemoSettings.model_validate({"clusters": True}).run_spec(("a", "b"), mine)
    assert (spec.clustering.probes.sentences, spec.clustering.probes.count) == (mine, 9)


@given(parts=st.integers(2, 12), groups=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_row_of_a_grouped_plan_is_in_exactly_one_file(parts, groups, seed):
    plan = Plan(parts=parts, alpha=0.3, groups=min(groups, parts), seed=seed, holdout=0.2)
    files = share_out(ROWS, plan)
    assert list(files) == [*(file_name(part) for part in range(1, parts + 1)), "test.jsonl"]
    told = Counter(row["text"] for rows in files.values() for row in rows)
    assert told == Counter(row["text"] for row in ROWS)
    assert files == share_out(ROWS, plan)


def test_clients_of_a_group_are_alike_and_groups_are_not():
    files = share_out(ROWS * 10, Plan(parts=6, alpha=0.3, groups=2))
    shares = np.array([[label_shares(rows, "label").get(name, 0) for name in "abcdef"] for rows in files.values()])
    within = max(np.abs(shares[one] - shares[other]).sum() for one in range(6) for other in range(one % 2, 6, 2))
    between = min(np.abs(shares[one] - shares[other]).sum() for one in (0, 2, 4) for other in (1, 3, 5))
    assert within < 0.3 < 0.6 < between


def test_a_group_with_too_few_rows_for_its_clients_is_refused():
    with pytest.raises(DataError, match="too few"):
        share_out(ROWS[:10], Plan(parts=6, alpha=0.3, groups=2, min_rows=2))


def report():
    clients = [
        Standing(
            client=f"client-{n}",
            cluster=n % 2,
            edge=f"edge-{n % 2}",
            trust=0.9,
            set_aside=False,
            latency_ms=1.0,
            parts=None,
            why="as it behaves",
        )
        for n in (2, 1)
    ]
    found = Clusters(version=0, count=2, how="spectral", clients=clients, divergence=None, scores=())
    return Report(
        settings={}, versions={0: Version(accuracy=0.1, loss=2)}, yardsticks=MARKS, seconds=1, clusters=found
    )


def test_who_learned_with_whom_is_written_beside_the_adapter(tmp_path):
    write_report(report(), tmp_path)
    told = json.loads((tmp_path / "report.json").read_text())["clusters"]
    assert [one["client"] for one in told["clients"]] == ["client-2", "client-1"]
    assert (tmp_path / "clusters.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_given_and_who_learned_with_whom_are_printed(tmp_path, capsys):
    write_folder(tmp_path / "out" / "data", share_out(ROWS, Plan(parts=2, alpha=0.3, groups=2)))
    settings = DemoSettings.model_validate({"clusters": True, "clients": 2, "output": tmp_path / "out"})
    _print_groups(settings, "demo-1", report().clusters)
    out = capsys.readouterr().out
    assert "client-1.jsonl   300" in out
    assert "run demo-1, from version 0 on: 2 clusters of 2 clients" in out
    assert f"clusters.png is in {tmp_path / 'out'}" in out

"""An operator's own probes go into the specification that is submitted, or are refused on one line."""

import pytest

from elsa.spec import RunSpec
from services.cli.operator import Operator

LABELS = "data: {labels: [a, b]}\nfleet: {enroll_timeout_s: 60}\n"
CLUSTERS = LABELS + "clustering: {method: auto}\n"


def sentences(count):
    return [f"Does the ferry number {number} réach the harbour?" for number in range(count)]


@pytest.fixture
def files(tmp_path):
    """`files(spec, lines)`: the specification and the probes as files."""

    def call(spec, lines):
        paths = tmp_path / "run.yaml", tmp_path / "probes.txt"
        paths[0].write_text(spec)
        paths[1].write_text("\n".join(lines), encoding="utf-8")
        return paths

    return call


@pytest.fixture
def submitted(elsa, cloud, files):
    """`submitted(spec, lines)`: the clustering of a run as the cloud keeps it."""

    def call(spec, lines):
        path, probes = files(spec, lines)
        code, out, err = elsa("run", "submit", path, "--probes", probes, "--no-watch", "--cloud", cloud)
        assert (code, err) == (0, "")
        with Operator(cloud, 10) as operator:
            run_id = out.removeprefix("run ").strip()
            kept = RunSpec.from_yaml(operator.get(run_id).spec)
            operator.cancel(run_id)
        return kept.clustering

    return call


@pytest.fixture
def not_submitted(refused, files):
    """`not_submitted(spec, lines)`: the one line of a refusal, before any cloud is asked."""

    def call(spec, lines):
        path, probes = files(spec, lines)
        return refused("run", "submit", path, "--probes", probes, "--cloud", "127.0.0.1:1", "--patience", 0)

    return call


def test_the_lines_are_the_probes_in_their_order_and_empty_ones_are_passed_over(submitted):
    lines = sentences(70)
    kept = submitted(CLUSTERS, ["", *lines[:3], "  ", *lines[3:], ""]).probes
    assert kept.sentences == tuple(lines)
    assert kept.count == 64


@pytest.mark.parametrize(("given", "asked"), [("", 10), ("count: 9, ", 9)])
def test_all_of_a_few_lines_are_asked_unless_the_specification_counts(submitted, given, asked):
    spec = LABELS + f"clustering: {{method: spectral, probes: {{{given}repeated: 4}}}}\n"
    kept = submitted(spec, sentences(10))
    assert (kept.method, kept.probes.count, kept.probes.repeated) == ("spectral", asked, 4)


def test_a_count_of_more_than_the_lines_is_refused_by_its_field(not_submitted):
    line = not_submitted(LABELS + "clustering: {method: auto, probes: {count: 20}}\n", sentences(10))
    assert "run.yaml: clustering.probes: count 20 is more than the 10 probes that there are" in line


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (sentences(7), "probes.txt holds 7 probes; it needs 8 to 1024, one a line"),
        ([*sentences(8), "x" * 901], "probes.txt, line 9: 901 bytes; a probe may have 900"),
        ([*sentences(8), "", sentences(3)[2]], "probes.txt, line 10: the same as line 3"),
    ],
)
def test_lines_that_are_no_probes_are_refused_by_their_number(not_submitted, lines, said):
    assert said in not_submitted(CLUSTERS, lines)


def test_a_file_that_is_not_there_is_refused(refused, files):
    spec, _ = files(CLUSTERS, [])
    assert "nowhere.txt cannot be read: No such file" in refused("run", "submit", spec, "--probes", "nowhere.txt")


def test_probes_that_nobody_would_be_asked_are_refused(not_submitted):
    assert "nobody would be asked" in not_submitted(LABELS + "clustering: {method: none}\n", sentences(8))


@pytest.mark.parametrize("spec", ["clustering: 3", "clustering: {probes: [a]}", "- clustering"])
def test_a_specification_that_is_at_fault_is_refused_with_or_without_probes(not_submitted, refused, files, spec):
    with_probes = not_submitted(spec, sentences(8))
    path, _ = files(spec, [])
    assert with_probes == refused("run", "submit", path, "--cloud", "127.0.0.1:1", "--patience", 0)

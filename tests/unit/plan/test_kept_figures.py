"""Laws of measured figures that are kept: measured once while they hold, and always where they do not."""

import json
import logging
import os

import pytest

from elsa.plan.kept import KEPT_S, KeptFigures

KEY = {"model": "minilm", "batch": 16, "threads": 2}
FIGURES = {"block_s": 0.25, "head_s": 1e-3}
NOW = 1_000_000_000.0


class Bench:
    """Counts how often it measures; its clock stands where it is put."""

    def __init__(self, folder):
        self.folder, self.now, self.hardware, self.times = folder, NOW, "machine-1", 0

    def measure(self):
        self.times += 1
        return {name: value * self.times for name, value in FIGURES.items()}

    def get(self, key=KEY):
        return KeptFigures(self.folder, lambda: self.now, lambda: self.hardware).get(key, self.measure)

    @property
    def files(self):
        return sorted(self.folder.iterdir())


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "made" / "figures")


def test_what_is_kept_is_not_measured_again(bench):
    assert bench.get() == bench.get() == FIGURES
    bench.now += KEPT_S
    assert bench.get(dict(reversed(KEY.items()))) == FIGURES
    assert bench.times == 1


def test_a_file_says_what_was_measured_on_what_and_when(bench):
    bench.get()
    (file,) = bench.files
    assert json.loads(file.read_text()) == {
        "hardware": "machine-1",
        "key": KEY,
        "measured_at": NOW,
        "figures": FIGURES,
    }


@pytest.mark.parametrize("changed", [{"batch": 17}, {"threads": None}, {"more": 1}])
def test_each_key_has_figures_of_its_own(bench, changed):
    bench.get()
    bench.get({**KEY, **changed})
    assert bench.times == len(bench.files) == 2
    bench.get()
    assert bench.times == 2


def test_figures_of_other_hardware_are_not_used_and_not_lost(bench):
    bench.get()
    bench.hardware = "machine-2"
    assert bench.get() != FIGURES
    bench.hardware = "machine-1"
    assert bench.get() == FIGURES
    assert bench.times == 2


@pytest.mark.parametrize("passed_s", [KEPT_S + 1, -1.0])
def test_figures_that_are_old_or_from_the_future_are_measured_anew(bench, passed_s):
    bench.get()
    bench.now += passed_s
    bench.get()
    assert bench.times == 2
    bench.get()
    assert bench.times == 2


def broken(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_text(file.read_text()[:-9]),
        lambda file: file.write_bytes(b"\xff\xfe"),
        lambda file: file.write_text("[" * 10**5),
        lambda file: file.write_text("[]"),
        lambda file: broken(file, figures={"block_s": "fast"}),
        lambda file: broken(file, figures={"block_s": float("nan")}),
        lambda file: broken(file, figures={}),
        lambda file: broken(file, measured_at=None),
        lambda file: broken(file, measured_at=True),
        lambda file: broken(file, hardware="machine-9"),
        lambda file: broken(file, key={}),
    ],
)
def test_a_broken_file_is_measured_anew_and_mended(bench, spoil):
    bench.get()
    spoil(bench.files[0])
    assert bench.get() == {name: 2 * value for name, value in FIGURES.items()}
    bench.get()
    assert bench.times == 2
    assert len(bench.files) == 1


def test_where_nothing_can_be_kept_each_start_measures_and_says_so(bench, caplog):
    bench.folder.parent.mkdir()
    bench.folder.write_text("a file where the folder would be")
    with caplog.at_level(logging.WARNING):
        assert bench.get() == FIGURES
    assert bench.get() != FIGURES
    assert "measured again at each start" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_measured_each_time(bench, caplog):
    bench.folder.mkdir(parents=True)
    bench.folder.chmod(0o500)
    with caplog.at_level(logging.WARNING):
        bench.get()
        bench.get()
    bench.folder.chmod(0o700)
    assert bench.times == 2 and bench.files == []


def test_a_measurement_that_fails_keeps_nothing(bench):
    def fail():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        KeptFigures(bench.folder).get(KEY, fail)
    assert not bench.folder.exists()


def test_values_without_a_form_in_json_count_by_their_text(bench, tmp_path):
    bench.get({"folder": tmp_path})
    bench.get({"folder": str(tmp_path)})
    assert bench.times == 1

"""Settings say what they mean, the strongest attack is what a report shows, and its files hold all of it."""

import json
from dataclasses import replace

import pytest

from elsa.errors import SpecError
from elsa.privacy.audit.audit import Result
from elsa.privacy.audit.gradients import LabelRecovery
from elsa.privacy.audit.observed import Recovery
from elsa.privacy.audit.report import HEADINGS, Report, noted
from elsa.privacy.audit.settings import Setting, default_settings, read_settings
from elsa.spec import DataSpec, RunSpec, SplitSpec

BASE = RunSpec(data=DataSpec(labels=("a", "b")), split=SplitSpec(bottom=1, top=1))


def result(name, top1, accuracy, **more):
    tokens = (
        Recovery(attack="A0 nearest neighbour", top1=top1 / 2, rank=9, tokens=100),
        Recovery(attack="A1 complement", top1=top1, rank=2, tokens=100),
    )
    labels = (
        LabelRecovery(attack="A5 labels: groups", accuracy=0.4, majority=0.3, rows=50),
        LabelRecovery(attack="A5 labels: completed", accuracy=0.9, majority=0.3, rows=50),
    )
    given = {"tokens": tokens, "labels": labels, "accuracies": (accuracy,), "up_bytes": 3000.0, "down_bytes": 1500.0}
    return Result(setting=name, split="1/4/1", **(given | more))


REPORT = Report(
    about={"model": "minilm"},
    results=(
        result("unprotected", 1.0, 0.95),
        result("mild", 0.5, 0.945, epsilon=12.3456),
        result("harsh", 0.01, 0.5),
        Result(setting="broken", split="1/4/1", failure="training diverged: NaN"),
    ),
)


def test_a_line_shows_the_strongest_attacks_and_never_a0_where_another_is_stronger():
    line = dict(zip(HEADINGS, REPORT.lines()[1], strict=True))
    assert line["tokens"] == "0.500"
    assert line["by"] == "A1"
    assert line["labels"] == "0.900 (0.300)"
    assert line["lost"] == "0.5"
    assert line["KB a step"] == "4" or line["KB a step"] == "5"  # 4.5 is rounded to even
    assert {len(cells) for cells in REPORT.lines()} == {len(HEADINGS)}


def test_the_table_of_attacks_has_a_column_a_kind_and_no_line_for_what_was_not_trained():
    headings, lines = REPORT.attack_lines()
    assert headings == ("setting", "A0", "A1")
    assert lines[0] == ("unprotected", "0.500", "1.000")
    assert [line[0] for line in lines] == ["unprotected", "mild", "harsh"]


def test_the_best_setting_leaks_least_among_those_that_cost_little():
    best = REPORT.best(1.0)
    assert best is not None
    assert best.setting == "mild"
    everything = REPORT.best(100.0)
    assert everything is not None
    assert everything.setting == "harsh"
    assert REPORT.best(-1.0) is None


def test_nothing_is_held_against_an_unprotected_run_that_failed():
    report = replace(REPORT, results=(REPORT.results[-1], *REPORT.results[1:3]))
    assert report.best(1.0) is None
    assert report.lines()[1][HEADINGS.index("lost")] == "-"
    assert json.loads(report.to_json())["settings"][1]["points_lost"] is None


def test_files_hold_every_figure_and_a_picture(tmp_path):
    REPORT.write(tmp_path / "new" / "folder")
    raw = json.loads((tmp_path / "new" / "folder" / "audit.json").read_text())
    assert raw["about"] == {"model": "minilm"}
    assert [row["setting"] for row in raw["settings"]] == ["unprotected", "mild", "harsh", "broken"]
    assert raw["settings"][1]["strongest"]["attack"] == "A1 complement"
    assert len(raw["settings"][1]["tokens"]) == len(raw["settings"][1]["labels"]) == 2
    assert raw["settings"][1]["points_lost"] == pytest.approx(0.5)
    assert (tmp_path / "new" / "folder" / "audit.png").read_bytes().startswith(b"\x89PNG")


def test_the_floor_is_told_once():
    floor = Recovery(attack="floor lengths alone", top1=0.25, rank=3, tokens=10)
    results = [replace(result, tokens=(*result.tokens, floor)) for result in REPORT.results if not result.failure]
    said = noted(replace(REPORT, results=tuple(results)))
    assert [line for line in said if "0.250" in line] == said[:1]


def test_epsilon_is_told_with_its_unit():
    assert noted(REPORT) == ["mild: one token's state of one row is protected by epsilon 12.3"]


def test_a_setting_is_the_run_but_for_what_it_says():
    plain = Setting(name="plain").spec(BASE)
    assert plain.codecs == RunSpec(preset="none", data=BASE.data).codecs
    assert plain.training == BASE.training
    deeper = Setting(name="x", preset="default", bottom=3, bottom_adapters=False).spec(BASE)
    assert (deeper.split.bottom, deeper.split.top, deeper.lora.bottom_adapters) == (3, 1, False)
    assert deeper.codecs == BASE.codecs
    thrifty = Setting(name="x", preset="thrifty").spec(BASE)
    assert (thrifty.lora.bottom_adapters, thrifty.reuse.enabled) == (False, True)
    private = Setting(name="x", preset="private", bottom=2).spec(BASE)
    assert (private.split.bottom, private.split.top) == (2, 0)
    later = Setting(name="x", top=0).spec(BASE)
    assert (later.split.bottom, later.split.top) == (1, 0)
    turned = Setting(name="x", privacy={"ssop": {"rank": 4}}).spec(BASE)
    assert turned.privacy.ssop is not None
    with pytest.raises(SpecError, match=r"setting 'x': privacy\.ssop\.rank"):
        Setting(name="x", privacy={"ssop": {"rank": 1}}).spec(BASE)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(("blocks", "bottom"), [(3, 1), (6, 1), (6, 4), (12, 2)])
def test_the_ladder_starts_unprotected_and_fits_the_model(blocks, bottom, quick):
    base = BASE.model_copy(update={"split": SplitSpec(bottom=bottom, top=1)})
    settings = default_settings(base, blocks, quick=quick)
    assert settings[0] == Setting(name="unprotected")
    assert len({setting.name for setting in settings}) == len(settings)
    for setting in settings:
        setting.spec(base).split.of(blocks)
    assert (len(settings) <= 5) is quick


def test_settings_are_read_from_a_file_and_faults_are_told_with_field_and_remedy(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("settings:\n- name: one\n  bottom: 2\n- name: two\n  preset: paper\n")
    assert [(setting.name, setting.preset) for setting in read_settings(path)] == [("one", "none"), ("two", "paper")]
    for text, said in (
        ("settings: []", "settings: Tuple should have at least 1 item"),
        ("settings: [{name: a}, {name: a}]", "'a' is named twice"),
        ("settings: [{name: a, deeper: 3}]", "deeper: unknown field"),
        ("settings: [{name: a, top: -1}]", r"top: .*greater than or equal to 0"),
        ("settings: [", "not YAML"),
        ("- 3", "settings.yaml"),
    ):
        path.write_text(text)
        with pytest.raises(SpecError, match=said):
            read_settings(path)
    with pytest.raises(SpecError, match="cannot be read"):
        read_settings(tmp_path / "gone.yaml")

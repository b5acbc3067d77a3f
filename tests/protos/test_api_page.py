"""docs/api.md says what the protos and the tables say, and leaves nothing out."""

import re

import pytest
from document import PAGE, described, main, page

from services.rpc.policy import CALLS

FILES = described()


def test_the_page_is_as_the_protos_say():
    assert main(["--check"]) == 0


@pytest.mark.parametrize("arguments", [["--chek"], ["check"], ["--check", "--check"], ["--help"]])
def test_what_is_asked_for_otherwise_is_refused_and_writes_nothing(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.setattr("document.PAGE", tmp_path / "api.md")
    assert main(arguments) == 2
    assert "usage" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_everything_has_a_comment():
    """Every service, method, message, field, enum and value."""
    for name, each in FILES.items():
        found = {tuple(place.path) for place in each.file.source_code_info.location if place.leading_comments.strip()}
        wanted = [(12,)]
        for kind, things, parts in ((6, each.file.service, "method"), (4, each.file.message_type, "field")):
            for place, thing in enumerate(things):
                wanted += [
                    (kind, place),
                    *((kind, place, 2, number) for number, _ in enumerate(getattr(thing, parts))),
                ]
        for place, enum in enumerate(each.file.enum_type):
            wanted += [(5, place), *((5, place, 2, number) for number, _ in enumerate(enum.value))]
        assert not set(wanted) - found, name


def test_every_call_of_ours_is_in_a_table_with_who_may_make_it():
    text = PAGE.read_text()
    for server, calls in CALLS.items():
        for method in calls:
            service, _, name = method.removeprefix("/elsa.v1.").partition("/")
            if not method.startswith("/elsa.v1."):
                continue
            section = text.partition(f"\n## {service}\n")[2].partition("\n## ")[0]
            (row,) = re.findall(rf"^\| {name} \|.*$", section, re.M)
            assert "nobody" not in row.split("|")[5 if server == "cloud" else -2], (server, name)


def test_every_link_within_the_page_leads_somewhere():
    text = PAGE.read_text()
    headings = {line.lstrip("#").strip().lower().replace(" ", "-") for line in text.splitlines() if line[:1] == "#"}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= headings


def test_no_placeholder_is_left():
    assert "{{" not in PAGE.read_text()


def test_a_changed_comment_changes_the_page():
    """Shown on one: the check would tell."""
    before = page(list(FILES.values()))
    file = FILES["tensor"].file
    place = next(each for each in file.source_code_info.location if each.leading_comments.startswith(" A tensor:"))
    kept, place.leading_comments = place.leading_comments, " Another."
    try:
        assert page(list(FILES.values())) != before
    finally:
        place.leading_comments = kept


@pytest.mark.parametrize("name", FILES)
def test_each_file_has_a_heading(name):
    assert f"### elsa/v1/{name}.proto" in PAGE.read_text()

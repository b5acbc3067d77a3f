"""Where a demo works: others' files are untouched, an earlier result stays until the new one is whole."""

import pytest

from elsa.errors import InputError
from services.testbed.place import Workplace


def finished(output, content):
    place = Workplace(output)
    with place:
        (place.folder / "report.json").write_text(content)
        place.finish()


def test_a_finished_demo_replaces_an_earlier_one(tmp_path):
    output = tmp_path / "demo"
    finished(output, "first")
    finished(output, "second")
    assert (output / "report.json").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_an_unfinished_demo_leaves_the_earlier_one_and_is_cleared_by_the_next(tmp_path):
    output = tmp_path / "demo"
    finished(output, "first")
    with pytest.raises(ZeroDivisionError), Workplace(output) as place:
        (place.folder / "half").mkdir()
        raise ZeroDivisionError
    assert (output / "report.json").read_text() == "first"
    finished(output, "second")
    assert not (output / "half").exists()


@pytest.mark.parametrize("name", ["demo", "demo.unfinished"])
def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no demo; choose another --output"):
        Workplace(tmp_path / "demo").check()
    assert (folder / "thesis.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_two_demos_at_once_are_refused(tmp_path):
    with Workplace(tmp_path / "demo"), pytest.raises(InputError, match="another demo works in"):
        Workplace(tmp_path / "demo").__enter__()

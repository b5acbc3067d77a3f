"""Whoever looks into the folder of examples finds each in its list, and in each how to run it."""

import pytest
from examples_folder import EXAMPLES

LISTED = (EXAMPLES / "README.md").read_text()
STARTS = [*EXAMPLES.glob("*.yaml"), *EXAMPLES.glob("*.py"), *EXAMPLES.glob("*/*.js"), *EXAMPLES.glob("*/__main__.py")]
STARTS += EXAMPLES.glob("*/*.yaml")


@pytest.mark.parametrize("path", STARTS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_each_example_says_how_to_run_it_and_is_listed(path):
    opening = path.read_text().split("\n\n\n")[0].splitlines()[:12]
    assert any(word in line for line in opening for word in ("elsa ", "python ", "node ", "docker ")), opening
    name = str(path.relative_to(EXAMPLES))
    assert name.replace("/__main__.py", "/") in LISTED


def test_what_is_listed_is_there():
    named = [cell.split("`")[1] for cell in LISTED.splitlines() if cell.startswith("| `")]
    assert all((EXAMPLES / name).exists() for name in named)

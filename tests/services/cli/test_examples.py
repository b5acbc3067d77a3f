"""The examples are specifications that a cloud takes."""

from pathlib import Path

import pytest

from elsa.spec import RunSpec

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_a_valid_specification(path):
    spec = RunSpec.from_yaml(path.read_text(), path.name)
    assert RunSpec.from_yaml(spec.to_yaml()) == spec


def test_there_are_examples_of_both_tasks():
    tasks = {RunSpec.from_yaml(path.read_text()).model.task for path in EXAMPLES}
    assert tasks == {"classification", "causal-lm"}

"""docs/kubernetes.md names values, files and defaults that exist."""

import re
from pathlib import Path
from typing import Any

import yaml
from rendered import SETS

from deploy.render import CHART

PAGE = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text(encoding="utf-8")
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def test_every_value_that_is_named_exists() -> None:
    tops = "|".join(VALUES)
    named = set(re.findall(rf"`((?:{tops})(?:\.[a-zA-Z]+)+)[:`]", PAGE))
    named -= {*(f"{name}.yaml" for name in SETS), "cloud.elsa.internal"}
    assert len(named) > 15
    for path in named:
        value: Any = VALUES
        for key in path.split("."):
            if path.startswith("edges.settings.") and key == "models":
                break
            assert key in value, path
            value = value[key]


def test_every_set_of_values_is_named_and_every_one_named_is_there() -> None:
    assert set(re.findall(r"([a-z-]+)\.yaml`", PAGE)) - {"values"} == set(SETS) - {"default"}


def test_defaults_are_as_they_are_told() -> None:
    for path, told in re.findall(r"^\| `([a-zA-Z.]+)`(?:, `[^|]+)? \| ([^|]+) \|", PAGE, re.MULTILINE):
        if path.split(".")[0] in VALUES and told[0].isdigit():
            value: Any = VALUES
            for key in path.split("."):
                value = value[key]
            if isinstance(value, int):
                assert told.split(",")[0] == str(value), path

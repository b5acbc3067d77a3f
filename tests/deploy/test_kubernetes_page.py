"""docs/kubernetes.md names values, files and defaults that exist."""

import functools
import re
from pathlib import Path
from typing import Any

import yaml
from rendered import SETS, Object, objects_in, pods, render

from deploy.render import CHART

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def test_every_value_that_is_named_exists() -> None:
    tops = "|".join(VALUES)
    named = set(re.findall(rf"`((?:{tops})(?:\.[a-zA-Z]+)+)[:`]", PAGE))
    named -= {*(f"{name}.yaml" for name in SETS), "cloud.elsa.internal"}
    assert len(named) > 15
    for path in named:
        if path != "edges.settings.models":  # a setting of the role
            assert value_at(path) is not None


def test_every_set_of_values_is_named_and_every_one_named_is_there() -> None:
    assert set(re.findall(r"([a-z-]+)\.yaml`", PAGE)) - {"values"} == set(SETS) - {"default"}


def test_defaults_are_as_they_are_told() -> None:
    (table,) = re.findall(r"^\| value \| default \| what \|\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    seen: list[str] = []
    for row in table.splitlines():
        named, told, _ = row.strip("| ").split(" | ", 2)
        paths = re.findall(r"`([a-zA-Z.]+)`", named)
        assert told == told_of([value_at(path) for path in paths]), row
        seen += paths
    assert len(seen) > 10


def test_an_image_with_more_packages_is_made_as_the_image_itself() -> None:
    install = "pip --python /opt/elsa/bin/python install"
    assert install in PAGE
    assert install in (ROOT / "docker" / "cloud.Dockerfile").read_text(encoding="utf-8")


def test_every_file_of_the_tree_that_a_command_takes_is_there() -> None:
    named = set(re.findall(r"(?<![\w.])((?:deploy|examples|docker)/[\w./@-]+\.yaml)", PAGE))
    assert len(named) > 4
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def test_what_is_made_for_a_fleet_with_own_certificates_is_all_that_its_pods_read() -> None:
    (own,) = re.findall(r"^\*\*Your own\.\*\*(.*?)^\*\*cert-manager", PAGE, re.MULTILINE | re.DOTALL)
    given = objects_in(
        render({**SETS["own-certificates"], "clients": [{"name": "clinic-a", "data": {"n": "/data/n"}}]})
    )
    files = {(f"{name}-tls", stem) for name, stem in re.findall(r"(?<=secret )(elsa-\S+) ([\w-]+)", own)}
    asked = dict(re.findall(r"(\w+)/([\w-]+)(?= |;)", re.search(r"for one in (.*?); do", own)[1] + " "))  # type: ignore[index]
    assert asked["admin"] == SETS["own-certificates"]["certificates"]["admin"]
    assert {name for name, _ in files} == secrets_read(given)
    assert f"configmap {SETS['own-certificates']['certificates']['revoked']} " in own
    install = re.search(r"helm install elsa .*?\n.*", own)
    assert install and "deploy/values/own-certificates.yaml" in install[0]


def secrets_read(given: tuple[Object, ...]) -> set[str]:
    """Secrets with certificates that the pods of a release mount; of edges, of those that run."""
    names: set[str] = set()
    for pod in pods(given):
        volume = pod.volume("tls")
        names.add(f"{pod.name}-tls" if "projected" in volume else volume["secret"]["secretName"])
    return names


def value_at(path: str) -> Any:
    """The default of a value. Raises KeyError if there is none of that name."""
    return functools.reduce(lambda values, key: values[key], path.split("."), VALUES)


def told_of(values: list[Any]) -> str:
    """How the page tells defaults that share a row."""
    if all(map(is_empty, values)):
        return "none"
    if all(isinstance(value, int) for value in values):
        return ", ".join(map(str, values))
    if all(isinstance(value, str) for value in values):
        return ", ".join(f"`{value}`" for value in values)
    if all("size" in value for value in values):
        (size,) = {value["size"].removesuffix("Gi") for value in values}
        return f"{size} GiB each"
    limits = [value["limits"] for value in values]
    cores, memory = (" and ".join(each[name].removesuffix("Gi") for each in limits) for name in ("cpu", "memory"))
    return f"{cores} cores, {memory} GiB"


def is_empty(value: Any) -> bool:
    """Whether a default names nothing at all."""
    return all(map(is_empty, value.values())) if isinstance(value, dict) else value in ("", [])

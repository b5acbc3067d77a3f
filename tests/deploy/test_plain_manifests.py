"""The plain manifests and the schema's settings are what `make manifests` writes; kubectl takes them."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered import objects_of

from deploy.render import CHART, MANIFESTS, SCHEMA, plain_files, schema_text, write
from services.edge.settings import EdgeSettings

ROOT = Path(__file__).parents[2]
OWN = ROOT / "deploy" / "kustomize"
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on this machine")


def test_manifests_in_the_tree_are_those_of_the_chart() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in MANIFESTS.glob("*.yaml")}
    assert written == plain_files(), "run make manifests"


def test_settings_in_the_schema_are_those_of_the_roles() -> None:
    given = SCHEMA.read_text(encoding="utf-8")
    assert given == schema_text(given), "run make manifests"


def test_writing_takes_away_what_is_no_more(tmp_path: Path) -> None:
    write(tmp_path, {"old.yaml": "a: 1\n", "kept.yaml": "b: 1\n"})
    write(tmp_path, {"kept.yaml": "b: 2\n"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"kept.yaml": "b: 2\n"}


def built(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What kubectl makes of a kustomization, by kind and name."""
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(done.stdout)}


@needs_kubectl
def test_kubectl_builds_the_plain_files() -> None:
    given = built(MANIFESTS)
    assert {each["metadata"]["namespace"] for each in given.values()} == {"elsa"}
    expected = [each for each in objects_of("default") if each["kind"] != "Pod"]  # the pod of `helm test`
    assert set(given) == {(each["kind"], each["metadata"]["name"]) for each in expected}
    for each in expected:
        assert given[each["kind"], each["metadata"]["name"]].get("spec") == each.get("spec")


@needs_kubectl
def test_a_kustomization_of_ones_own_changes_what_it_says_and_nothing_else() -> None:
    given, plain = built(OWN), built(MANIFESTS)
    assert set(given) == set(plain)
    assert {each["metadata"]["namespace"] for each in given.values()} == {"team-a"}
    for name, each in given.items():
        before = plain[name]
        each["metadata"]["namespace"] = before["metadata"]["namespace"]
        if name == ("ServiceAccount", "elsa"):
            assert each.pop("imagePullSecrets") == [{"name": "registry"}]
        if each["kind"] == "StatefulSet":
            (container,) = each["spec"]["template"]["spec"]["containers"]
            assert container["image"].startswith("registry.example/team/elsa-")
            container["image"] = container["image"].removeprefix("registry.example/team/")
            if container["name"] == "edge":
                assert container["env"].pop() == {"name": "ELSA_CAPACITY", "value": "4"}
        assert each == before, name


def test_the_kustomization_names_every_image_of_this_version_and_a_setting_that_there_is() -> None:
    own = yaml.safe_load((OWN / "kustomization.yaml").read_text(encoding="utf-8"))
    named = {f"{each['name']}:{each['newTag']}" for each in own["images"]}
    used = re.findall(r"image: (\S+)", "".join(plain_files().values()))
    assert named == set(used)
    (setting,) = re.findall(r"name: ELSA_(\w+)", (OWN / "kustomization.yaml").read_text(encoding="utf-8"))
    assert setting.lower() in EdgeSettings.model_fields


def test_the_chart_has_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == chart["version"] == project["version"]


def test_no_template_holds_a_secret() -> None:
    for path in sorted((ROOT / "deploy").rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        assert "kind: Secret\n" not in text
        assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY", text)

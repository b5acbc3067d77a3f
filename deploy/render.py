"""Writes what follows from the chart: plain manifests of its defaults, and the settings in its schema of values.

`make manifests` runs it; a test holds the files in the tree against what it writes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from helm_python.chart import Chart

from deploy.settings_schema import ROLES, settings_schema

FOLDER = Path(__file__).parent
CHART = FOLDER / "helm" / "elsa"
MANIFESTS = FOLDER / "manifests"
SCHEMA = CHART / "values.schema.json"
NAME = NAMESPACE = "elsa"
HEADER = "# Written by `make manifests` from the defaults of deploy/helm/elsa; change the chart instead.\n"


def objects(manifest: str) -> list[dict[str, Any]]:
    """The objects of a rendered template."""
    return [each for each in yaml.safe_load_all(manifest) if each]


def plain_files(chart: Path = CHART) -> dict[str, str]:
    """The chart's defaults as files by their names, and the kustomization that names them."""
    with Chart.load(chart) as loaded:
        rendered = loaded.render({}, name=NAME, namespace=NAMESPACE)
    files = {
        Path(path).name: HEADER + _text(manifest)
        for path, manifest in sorted(rendered.items())
        if path.endswith(".yaml") and "/tests/" not in path and objects(manifest)
    }
    listed: dict[str, Any] = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    listed |= {"namespace": NAMESPACE, "resources": sorted(files)}
    return {**files, "kustomization.yaml": HEADER + yaml.safe_dump(listed, sort_keys=False)}


def schema_text(given: str) -> str:
    """The schema of values with the settings of all roles as they are now. They end the file; the rest stays."""
    kept, mark, _ = given.partition('    "cloudSettings": ')
    if not mark:
        raise ValueError("values.schema.json has no cloudSettings; put them last among its definitions")
    return (
        kept
        + ",\n".join(f'    "{role}Settings": {_lines(settings_schema(ROLES[role]))}' for role in ROLES)
        + "\n  }\n}\n"
    )


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write `files`, and take away manifests that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.yaml"):
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def main() -> None:
    """Write all of it."""
    SCHEMA.write_text(schema_text(SCHEMA.read_text(encoding="utf-8")), encoding="utf-8")
    write(MANIFESTS, plain_files())


def _lines(schema: Mapping[str, Any]) -> str:
    """A schema of settings with a line for each."""
    settings = [f"        {json.dumps(name)}: {json.dumps(each)}" for name, each in schema["properties"].items()]
    rest = json.dumps({key: value for key, value in schema.items() if key != "properties"})[1:-1]
    return f'{{\n      {rest},\n      "properties": {{\n' + ",\n".join(settings) + "\n      }\n    }"


def _text(manifest: str) -> str:
    """A template's output without a separator at its begin and without lines that hold nothing."""
    lines = [line.rstrip() for line in manifest.splitlines() if line.strip()]
    return "\n".join(lines).removeprefix("---\n") + "\n"


if __name__ == "__main__":
    main()

"""The directions of imports, what must do without torch, names of modules, and the state of generated code."""

import ast
import filecmp
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GENERATED = ROOT / "elsa" / "v1"
FILES = sorted(
    path
    for package in ("elsa", "services")
    for path in (ROOT / package).rglob("*.py")
    if GENERATED not in path.parents
)
ROLES = ("cloud", "edge", "client")
HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "pyarrow")

WITHOUT_TORCH = [
    "elsa.errors",
    "elsa.spec",
    "elsa.wire.adapter",
    "elsa.wire.chunks",
    "elsa.model.adapter_config",
    "elsa.model.architecture",
    "elsa.model.export",
    "elsa.model.initial",
]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """Absolute names of all that a file imports, wherever in it."""
    package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return found


def within(name, package):
    return name == package or name.startswith(f"{package}.")


def offending(path, packages):
    return sorted(name for name in imports_of(path) if any(within(name, package) for package in packages))


def modules(*packages):
    """Modules in these packages, and the packages."""
    names = [module_of(path) for path in FILES]
    return [name for name in names if any(within(name, package) for package in packages)]


@pytest.mark.parametrize("path", [p for p in FILES if within(module_of(p), "elsa")], ids=module_of)
def test_the_library_knows_no_transport(path):
    assert offending(path, ["grpc", "services"]) == []


@pytest.mark.parametrize("role", [*ROLES, "rpc"])
def test_services_never_import_each_other(role):
    others = [f"services.{other}" for other in (*ROLES, "cli", "testbed") if other != role]
    for path in FILES:
        if within(module_of(path), f"services.{role}"):
            assert offending(path, others) == [], path


def test_what_the_cloud_imports_does_without_torch():
    """In one process where nothing heavy can be imported, all of it is."""
    wanted = [*WITHOUT_TORCH, *modules("elsa.cluster", "elsa.aggregate", "elsa.plan", "services.cloud")]
    wanted = [name for name in wanted if not name.endswith("__main__")]
    assert {"elsa.cluster.assignment", "elsa.aggregate.fedavg", "services.cloud.service"} <= set(wanted)
    code = f"""
import importlib, sys

class Missing:  # as if they were not installed; an empty entry in sys.modules confuses libraries that look there
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(HEAVY)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
for name in {wanted!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=module_of)
def test_packages_import_nothing(path):
    """So that one light module of a package can be imported without its heavy ones."""
    assert imports_of(path) == set()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_is_named_for_a_thing_and_says_what_it_is_for(path):
    assert path.stem not in {"utils", "common", "helpers", "misc", "manager", "util", "helper", "managers"}
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_nothing_from_outside_is_unpickled_or_evaluated():
    for path in FILES:
        assert offending(path, ["pickle", "marshal", "shelve", "dill", "cloudpickle"]) == [], path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"eval", "exec", "torch.load", "yaml.load"}, path


def test_generated_code_is_up_to_date(tmp_path):
    (tmp_path / "elsa").mkdir()
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(["bash", ROOT / "protos" / "generate.sh", tmp_path], env=environment, check=True)
    made = sorted(path.name for path in (tmp_path / "elsa" / "v1").iterdir())
    kept = sorted(path.name for path in GENERATED.iterdir() if path.name not in ("__init__.py", "__pycache__"))
    assert made == kept
    same, different, failed = filecmp.cmpfiles(tmp_path / "elsa" / "v1", GENERATED, made, shallow=False)
    assert (different, failed) == ([], []) and len(same) == len(made)

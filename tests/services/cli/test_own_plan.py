"""Without profiles this machine measures itself, and the model's shape is measured where no file says it."""

import json

import pytest

from elsa.plan.profile_file import profiles_from_json

SPEC = """
name: trial
model: {{source: {source}, max_tokens: 16}}
data: {{labels: [a, b]}}
training: {{batch: 2}}
plan: {{method: measured}}
"""


@pytest.fixture
def spec(tmp_path, tiny_bert, monkeypatch):
    for name in (
        "OMP_NUM_THREADS",
        "GOMP_SPINCOUNT",
        "THP_MEM_ALLOC_ENABLE",
    ):  # which the command sets for its own process
        monkeypatch.setenv(name, "1")
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.format(source=tiny_bert))
    return path


def test_this_machine_is_planned_as_a_client_and_its_edge(elsa, spec, tmp_path):
    saved = tmp_path / "own.json"
    code, out, err = elsa("plan", spec, "--max-memory-mib", "512", "--row-tokens", "9", "--save", saved)
    assert code == 0, err
    assert out.startswith("1 of 1 client can take part, at 1 edge; a step of all takes ")
    assert "2 rows of 9 tokens a step\nmeasured with 1 thread" in out and "\nassumed: a link of " in out
    profiles = profiles_from_json(saved.read_text(), "own.json")
    assert profiles.row_tokens == 9 and profiles.model is not None
    (client,), (edge,) = profiles.clients, profiles.edges
    assert client.memory_bytes == edge.memory_bytes == 512 << 20
    assert profiles.homes == {client.name: edge.name}
    assert (
        f"as a client its memory holds up to {profiles.model.blocks - 1} of the {profiles.model.blocks} blocks" in out
    )


def test_a_machine_whose_memory_holds_no_part_is_refused(elsa, spec):
    spec.write_text(spec.read_text().replace("batch: 2", "batch: 256"))
    code, out, err = elsa("plan", spec, "--max-memory-mib", "1")
    assert (code, out) == (1, "")
    assert "no client can take part" in err and "MiB" in err


def test_the_shape_is_measured_where_the_file_does_not_say_it(elsa, spec, tmp_path):
    link = {"latency_ms": 8.0, "up_bytes_per_s": 2e6, "down_bytes_per_s": 2e7}
    fleet = {
        "edges": {"edge-1": {"block_s": 0.004, "memory_bytes": 8e9, "capacity": 8}},
        "clients": {"c": {"block_s": 0.02, "memory_bytes": 2e9, "links": {"edge-1": link}}},
    }
    profiles, saved = tmp_path / "fleet.json", tmp_path / "saved.json"
    profiles.write_text(json.dumps(fleet))
    code, out, err = elsa("plan", spec, "--profiles", profiles, "--save", saved)
    assert code == 0, err
    shape = profiles_from_json(saved.read_text(), "saved.json").model
    assert shape is not None and f"a model of {shape.blocks} blocks" in out

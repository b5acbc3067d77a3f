"""A demo of clusters as real processes, on a tiny model: who learned with whom is told, drawn and exported."""

import json
import subprocess

import pytest

from services.testbed.processes import elsa_command

WORDS = ("rose", "moss", "ruby", "fern", "rust", "jade", "brick", "grass")
PROBES = [f"w{n} {word} w{n + 1}" for n, word in enumerate(WORDS * 2)]
SMALL = ("--clients", "4", "--rounds", "2", "--edge-rounds", "1", "--steps", "8", "--batch", "8", "--alpha", "0.3")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model, tiny_rows):
    """The folder and the output of a small demo of clusters, with probes of its own."""
    folder = tmp_path_factory.mktemp("clusters")
    (folder / "probes.txt").write_text("\n".join(PROBES), encoding="utf-8")
    given = ("--model", str(tiny_model), "--data", str(tiny_rows), "--probes", "probes.txt")
    command = elsa_command("demo", "--clusters", *given, *SMALL, "--learning-rate", "0.01", "--output", "out")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder / "out", done.stdout


def test_who_learned_with_whom_is_told_of_every_client(finished):
    folder, said = finished
    told = json.loads((folder / "report.json").read_text())["clusters"]
    assert [one["client"] for one in sorted(told["clients"], key=lambda one: one["client"])] == [
        f"client-{n}" for n in range(1, 5)
    ]
    assert all(one["parts"] is not None for one in told["clients"])
    assert {one["edge"] for one in told["clients"]} == {"edge-1", "edge-2"}
    assert "4 of 4 clients sent a fingerprint" in said
    assert (folder / "clusters.png").read_bytes().startswith(b"\x89PNG")


def test_every_cluster_is_evaluated_and_its_adapter_is_beside_the_runs(finished):
    folder, said = finished
    scores = json.loads((folder / "report.json").read_text())["clusters"]["scores"]
    assert 2 <= sum(score["clients"] for score in scores) <= 4  # one alone in its cluster at its edge has none
    whole = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    for score in scores:
        assert score["version"] == 2
        own = folder / f"adapter-of-cluster-{score['cluster']}"
        assert ((own / "adapter_model.safetensors").read_bytes() == whole) == (score["clients"] == 4)
        assert f"{score['own_accuracy']:.3f} with its own (version 2)" in said
    assert len(list(folder.glob("adapter-of-cluster-*"))) == len(scores)


def test_the_probes_that_were_given_are_those_of_the_run(finished):
    from elsa.spec import RunSpec

    probes = RunSpec.from_yaml((finished[0] / "spec.yaml").read_text(encoding="utf-8")).clustering.probes
    assert (list(probes.sentences), probes.count) == (PROBES, len(PROBES))

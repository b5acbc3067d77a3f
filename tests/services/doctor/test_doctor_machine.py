"""Model, memory and disk of a machine: what is missing or too little is said with its figure."""

import json
import os
from collections import namedtuple

import pytest
from doctor_harness import of
from split_harness import spec_of

from services.doctor.examination import examine
from services.doctor.finding import EXIT_CODES, Finding, Kind, exit_code
from services.doctor.model import check_model
from services.doctor.room import Folder, check_disk, check_memory
from services.doctor.subject import Instruments, Subject

MIB = 1 << 20
NOBODY = 65534
Usage = namedtuple("Usage", "free")


def looked_at(source, role="edge", spec=None, models=None):
    return check_model(str(source), spec, role, models or {}, 2)


def test_a_whole_model_is_good_and_counted(tiny_bert):
    found = looked_at(tiny_bert, spec=spec_of(tiny_bert))
    assert found.finding.verdict == "good" and "bert" in found.finding.what
    assert found.checkpoint is not None


def test_the_packaged_model_is_good():
    assert looked_at("minilm").finding.verdict == "good"


@pytest.mark.parametrize(("role", "verdict"), [("edge", "bad"), ("client", "warn"), ("admin", "warn")])
def test_a_model_that_is_not_there_is_bad_for_edges_alone(tmp_path, role, verdict):
    """Clients get theirs from their edge."""
    found = looked_at(tmp_path / "none", role).finding
    assert found.verdict == verdict and "no model folder at" in found.what and "existing folder" in found.remedy


def test_a_sites_own_place_of_a_model_counts(tiny_bert):
    assert looked_at("org/name", models={"org/name": str(tiny_bert)}).finding.verdict == "good"


def test_a_hub_that_cannot_be_reached_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.model_info", refuse)
    found = looked_at("some-org/some-model").finding
    assert found.verdict == "bad" and "the hub does not give it (no route to it)" in found.what
    assert "HF_TOKEN" in found.remedy


def refuse(*_, **__):
    raise OSError("no route to it")


def test_what_the_hub_has_is_good_but_for_weights_in_another_form(monkeypatch):
    files = {"config.json": 100, "model.safetensors": 90 * MIB}
    monkeypatch.setattr("services.doctor.model._hub_files", lambda *_: files)
    found = looked_at("some-org/some-model").finding
    assert found.verdict == "good" and "90.0 MiB to download" in found.what
    del files["model.safetensors"]
    files["pytorch_model.bin"] = 1
    assert looked_at("some-org/some-model").finding.verdict == "bad"


@pytest.mark.parametrize("gone", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_without_one_of_its_files_is_bad(tiny_bert, tmp_path, gone):
    for path in tiny_bert.iterdir():
        if path.name != gone:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    found = looked_at(tmp_path).finding
    assert found.verdict == "bad" and str(tmp_path) in found.what and found.remedy


def test_a_model_that_lacks_tensors_is_bad(tiny_bert, tmp_path):
    for path in tiny_bert.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**fields, "num_hidden_layers": fields["num_hidden_layers"] + 1})
    )
    found = looked_at(tmp_path).finding
    assert found.verdict == "bad" and "tensors are missing" in found.what


def test_a_family_that_is_not_supported_is_bad(tiny_bert, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlnet"}))
    found = looked_at(tmp_path, "client").finding
    assert found.verdict == "bad" and "xlnet" in found.what


def test_without_torch_a_cloud_skips_and_an_edge_is_told():
    lacks = {"lacking": lambda name: name == "torch"}
    assert check_model("minilm", None, "cloud", {}, 2, **lacks).finding.verdict == "skipped"
    found = check_model("minilm", None, "edge", {}, 2, **lacks).finding
    assert found.verdict == "bad" and "torch not installed" in found.what and "elsa[train]" in found.remedy


@pytest.mark.parametrize("role", ["edge", "client"])
def test_memory_is_held_against_what_the_run_takes(tiny_bert, role):
    spec = spec_of(tiny_bert)
    checkpoint = looked_at(tiny_bert, role, spec).checkpoint
    good = check_memory(spec, checkpoint, role, "ann", None, lambda: 4096 * MIB)
    assert good.verdict == "good" and "4096.0 MiB may be used" in good.what
    bad = check_memory(spec, checkpoint, role, "ann", None, lambda: 1000)
    assert (bad.kind, bad.verdict) == ("memory", "bad")
    assert "0.0 MiB are there" in bad.what and bad.remedy
    capped = check_memory(spec, checkpoint, role, "ann", 64, lambda: 4096 * MIB)
    assert "64.0 MiB may be used, of 4096.0 MiB free" in capped.what


def test_memory_for_a_run_whose_model_is_not_here_is_not_called_enough(tiny_bert):
    found = check_memory(spec_of(tiny_bert), None, "edge", "e", None, lambda: 4096 * MIB)
    assert "is not known without its model" in found.what


def test_memory_that_is_little_or_not_told_is_warned_of():
    assert check_memory(None, None, "edge", "e", None, lambda: 100 * MIB).verdict == "warn"
    assert check_memory(None, None, "admin", "e", None, lambda: 100 * MIB).verdict == "good"
    assert check_memory(None, None, "edge", "e", None, lambda: None).verdict == "warn"


@pytest.mark.parametrize(("free", "verdict"), [(10 * MIB, "bad"), (500 * MIB, "warn"), (5000 * MIB, "good")])
def test_free_disk_is_told(tmp_path, free, verdict):
    found = check_disk(Folder(path=tmp_path / "a" / "b", use="state"), lambda _: Usage(free))
    assert found.verdict == verdict and f"{free / MIB:.1f} MiB free" in found.what
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_or_read_only_is_bad(tmp_path):
    (tmp_path / "file").touch()
    found = check_disk(Folder(path=tmp_path / "file" / "state", use="state"))
    assert found.verdict == "bad" and "is no folder" in found.what
    (tmp_path / "read-only").mkdir(mode=0o500)
    if os.getuid():  # root may write everywhere
        found = check_disk(Folder(path=tmp_path / "read-only", use="state"))
        assert found.verdict == "bad" and "cannot be written" in found.what
    found = check_disk(Folder(path=tmp_path / "read-only", use="state"), refuse)
    assert found.verdict == "bad" and f"user {os.getuid()}" in found.remedy


def test_the_folder_of_an_admin_is_a_warning_at_most(tmp_path):
    (tmp_path / "file").touch()
    found = check_disk(Folder(path=tmp_path / "file", use="exports", named_by="--to", needed=False))
    assert found.verdict == "warn" and "name another folder by --to" in found.remedy


@pytest.fixture
def closed(tmp_path):
    """A folder in a folder that this process may not enter, root's rights or not."""
    (parent := tmp_path / "closed").mkdir(mode=0)
    before = os.geteuid()
    if not before:
        os.seteuid(NOBODY)
    yield parent / "state"
    os.seteuid(before)


def test_a_folder_that_nobody_may_look_into_is_bad(closed):
    found = check_disk(Folder(path=closed / "a", use="state"))
    assert found.verdict == "bad" and "cannot be written (Permission denied)" in found.what
    found = looked_at(closed).finding
    assert found.verdict == "bad" and "Permission denied" in found.what


def test_what_is_injected_is_what_is_used(tmp_path):
    by = Instruments(available=lambda: 100 * MIB, usage=lambda _: Usage(10 * MIB))
    findings = list(examine(Subject(role="edge", folders=(Folder(path=tmp_path, use="state"),)), by))
    assert of(findings, "memory", "warn") and of(findings, "disk")


def test_the_first_bad_kind_is_the_status():
    def found(kind, verdict):
        return Finding(kind=kind, verdict=verdict, what="")

    assert exit_code([]) == 0
    assert exit_code([found(kind, "warn") for kind in Kind]) == 0
    for kind in Kind:
        assert exit_code([found(Kind.NAME, "warn"), found(kind, "bad"), found(Kind.DISK, "bad")]) == EXIT_CODES[kind]
    assert len(set(EXIT_CODES.values())) == len(Kind) and min(EXIT_CODES.values()) > 2

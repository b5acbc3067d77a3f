"""The whole system as real processes, on a tiny model: a run completes, and what it made loads in plain PEFT."""

import json
import os
import signal
import subprocess

import pytest

from services.testbed.processes import elsa_command

FEW = ("--clients", "2", "--edges", "1", "--rounds", "2", "--edge-rounds", "2", "--steps", "8", "--batch", "8")


def demo(tiny_model, tiny_rows, *flags):
    return elsa_command("demo", "--model", str(tiny_model), "--data", str(tiny_rows), *FEW, *flags)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model, tiny_rows):
    """The folder and the output of a small demo."""
    folder = tmp_path_factory.mktemp("demo")
    command = demo(tiny_model, tiny_rows, "--iid", "--learning-rate", "0.01", "--output", "out")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder / "out", done.stdout


def test_a_run_of_real_processes_completes_and_reports(finished):
    folder, said = finished
    report = json.loads((folder / "report.json").read_text())
    assert [each["version"] for each in report["rounds"]] == [0, 1, 2]
    for each in report["rounds"]:
        assert 0 <= each["accuracy"] <= 1
    assert report["rounds"][2]["loss"] < report["rounds"][0]["loss"]
    assert report["wire_bytes"] > 0
    assert all(seconds > 0 for phase, seconds in report["phase_seconds"].items() if phase != "wait")
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    assert "run is COMPLETED" in said
    assert "elsa predict out/adapter" in said
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's
def test_what_it_made_loads_in_plain_peft_and_predicts(finished, tiny_model):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, _ = finished
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    model = PeftModel.from_pretrained(base, folder / "adapter").eval()
    batch = AutoTokenizer.from_pretrained(tiny_model)(["w1 rose w2", "fern w3"], padding=True, return_tensors="pt")
    with torch.no_grad():
        want = model(**batch).logits.softmax(-1)
    command = elsa_command("predict", str(folder / "adapter"), "w1 rose w2", "fern w3", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    for row, shares in zip(json.loads(done.stdout), want, strict=True):
        assert list(row["probabilities"]) == ["green", "red"]
        assert list(row["probabilities"].values()) == pytest.approx(shares.tolist(), abs=1e-5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupt_stops_every_process_and_says_where_the_state_is(tmp_path, tiny_model, tiny_rows, number):
    command = demo(tiny_model, tiny_rows, "--output", "out", "--rounds", "500")
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        said = iter(process.stdout.readline, "")
        assert any("run is TRAINING" in line for line in said)
        pids = _pids(tmp_path / "out.unfinished")
        assert len(pids) == 4
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "logs and state are in out.unfinished" in rest
    assert errors == "error: interrupted\n"
    assert not any(map(_alive, pids))
    assert not (tmp_path / "out").exists()


def test_a_run_that_ends_without_a_result_ends_the_demo_with_its_reason(tmp_path, tiny_model, tiny_rows):
    command = demo(tiny_model, tiny_rows, "--output", "out", "--rounds", "500")
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        submitted = next(line for line in iter(process.stdout.readline, "") if "is submitted to the cloud at" in line)
        run_id, address = submitted.split()[1], submitted.split()[-1]
        pids = _pids(tmp_path / "out.unfinished")
        subprocess.run(elsa_command("run", "cancel", run_id, "--cloud", address), check=True, timeout=60)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == (
        f"error: run {run_id} is CANCELLED: cancelled by an operator -- logs and state are in out.unfinished\n"
    )
    assert len(pids) == 4
    assert not any(map(_alive, pids))


def test_a_role_that_dies_ends_the_demo_with_its_last_words(tmp_path, tiny_model, tiny_rows):
    command = demo(tiny_model, tiny_rows, "--output", "out", "--rounds", "500")
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        said = iter(process.stdout.readline, "")
        assert any("run is TRAINING" in line for line in said)
        unfinished = tmp_path / "out.unfinished"
        pids = _pids(unfinished)
        os.kill(json.loads((unfinished / "ready" / "edge-1.json").read_text())["pid"], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("error: edge-1 ended by itself by signal 9; the end of out.unfinished/logs/edge-1.log: ")
    assert errors.count("\n") == 1
    assert not any(map(_alive, pids))


def _pids(folder):
    return [json.loads(path.read_text())["pid"] for path in (folder / "ready").iterdir()]


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

"""The demo as a user runs it, on the packaged model and the built-in corpus: it learns what it should."""

import json
import subprocess

import pytest

from services.testbed.processes import elsa_command


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_beats_the_commonest_label_and_the_frozen_model(tmp_path):
    done = subprocess.run(
        elsa_command("demo", "--rounds", "6"), cwd=tmp_path, capture_output=True, text=True, timeout=880
    )
    assert done.returncode == 0, done.stderr
    test = json.loads((tmp_path / "elsa-demo" / "report.json").read_text())["test"]
    assert test["adapter"] > test["frozen_head"] > test["majority"]

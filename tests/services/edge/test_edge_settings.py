"""What an edge's owner says of its folders."""

from pathlib import Path

import pytest

from elsa.errors import SpecError
from services.cli.flags import merged
from services.client.settings import ClientSettings
from services.edge.settings import EdgeSettings


def test_two_edges_of_a_machine_keep_their_rounds_apart_wherever_their_owner_says():
    for state in ({}, {"state": "/var/lib/elsa/state"}):
        folders = {EdgeSettings.load(name=name, **state).state_folder for name in ("edge-1", "edge-2", "cloud")}
        assert len(folders) == 3
        assert not any(folder.is_relative_to(Path("elsa-state/cloud")) for folder in folders)


@pytest.mark.parametrize("kind", [EdgeSettings, ClientSettings])
def test_models_of_a_site_come_from_flags_or_as_json(monkeypatch, kind):
    found = merged(kind, {"models": ["org/name=/models/name", "minilm=other"]}, None, "edge")
    assert found.models == {"org/name": "/models/name", "minilm": "other"}
    with pytest.raises(SpecError, match="names no folder; write --models SOURCE=FOLDER"):
        merged(kind, {"models": ["/models/name"]}, None, "edge")
    monkeypatch.setenv("ELSA_MODELS", '{"org/name": "/models/name"}')
    assert kind.load().models == {"org/name": "/models/name"}
    monkeypatch.setenv("ELSA_MODELS", "org/name=/models/name")
    with pytest.raises(SpecError, match=r"ELSA_MODELS is not JSON.* give it like \{"):
        kind.load()

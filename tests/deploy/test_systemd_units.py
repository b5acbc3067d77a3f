"""The units of systemd and their example settings: what they name exists, and systemd takes them."""

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from services.cli.flags import merged
from services.client.settings import ClientSettings
from services.cloud.settings import CloudSettings
from services.edge.settings import EdgeSettings

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = {"cloud": "elsa-cloud.service", "edge": "elsa-edge@.service", "client": "elsa-client@.service"}
SETTINGS: dict[str, Any] = {"cloud": CloudSettings, "edge": EdgeSettings, "client": ClientSettings}


def service(role: str) -> configparser.SectionProxy:
    units = configparser.RawConfigParser(strict=False)
    units.optionxform = str  # type: ignore[assignment,method-assign]
    units.read(FOLDER / UNITS[role])
    return units["Service"]


def arguments(role: str) -> list[str]:
    return shlex.split(service(role)["ExecStart"].replace("%i", "plant-north"))


@pytest.mark.parametrize("role", UNITS)
def test_every_unit_starts_its_own_role_with_flags_that_are_settings(role: str) -> None:
    program, command, *flags = arguments(role)
    assert (Path(program).name, command) == ("elsa", role)
    named = {flag.removeprefix("--").replace("-", "_") for flag in flags[::2]}
    assert named - {"config"} <= set(SETTINGS[role].model_fields)


@pytest.mark.parametrize("role", UNITS)
def test_the_example_settings_are_settings(role: str) -> None:
    settings = merged(SETTINGS[role], {}, FOLDER / f"{role}.yaml", role)
    assert settings.tls is not None
    assert not settings.insecure


@pytest.mark.parametrize("role", ["cloud", "edge"])
def test_a_unit_waits_longer_than_its_role_drains(role: str) -> None:
    settings = merged(SETTINGS[role], {}, FOLDER / f"{role}.yaml", role)
    assert int(service(role)["TimeoutStopSec"]) > settings.grace_s + 10


@pytest.mark.parametrize("role", ["cloud", "edge"])
def test_a_unit_says_where_its_time_to_stop_has_to_follow_a_setting(role: str) -> None:
    lines = (FOLDER / UNITS[role]).read_text(encoding="utf-8").splitlines()
    above = lines[next(number for number, line in enumerate(lines) if line.startswith("TimeoutStopSec=")) - 1]
    grace_s = SETTINGS[role].model_fields["grace_s"].default
    more_s = int(service(role)["TimeoutStopSec"]) - grace_s
    assert above.startswith(f"# grace_s ({grace_s:g}) and {more_s:g} s more")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in UNITS.values():
        text = (FOLDER / unit).read_text().replace("/opt/elsa/bin/elsa", "/bin/true")
        (tmp_path / unit).write_text(text)
    paths = [str(tmp_path / unit) for unit in UNITS.values()]
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr

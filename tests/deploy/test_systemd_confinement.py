"""The units of systemd: who a role runs as, what it may touch, where its state is, how it ends and comes back."""

import configparser
import shlex
from pathlib import Path, PurePath
from typing import Any

import pytest

from services.cli.flags import merged
from services.cloud.settings import CloudSettings
from services.edge.settings import EdgeSettings

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = {"cloud": "elsa-cloud.service", "edge": "elsa-edge@.service", "client": "elsa-client@.service"}
SERVERS: dict[str, Any] = {"cloud": CloudSettings, "edge": EdgeSettings}
CONFINED = {
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
    **dict.fromkeys(
        (
            *("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "ProtectKernelTunables"),
            *("ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock", "ProtectHostname"),
            *("RestrictSUIDSGID", "RestrictNamespaces", "RestrictRealtime", "LockPersonality"),
        ),
        "yes",
    ),
}
every_role = pytest.mark.parametrize("role", UNITS)


def service(role: str) -> configparser.SectionProxy:
    units = configparser.RawConfigParser(strict=False)
    units.optionxform = str  # type: ignore[assignment,method-assign]
    units.read(FOLDER / UNITS[role])
    return units["Service"]


def flags(role: str) -> dict[str, str]:
    words = shlex.split(service(role)["ExecStart"])[2:]
    return dict(zip(words[::2], words[1::2], strict=True))


@every_role
def test_a_role_runs_as_a_user_of_its_own_and_touches_its_own_alone(role: str) -> None:
    own = service(role)
    assert (own["User"], own["Group"]) == ("elsa", "elsa")
    assert {name: own.get(name) for name in CONFINED} == CONFINED
    assert set(own["RestrictAddressFamilies"].split()) == {"AF_INET", "AF_INET6", "AF_UNIX"}


@every_role
def test_what_a_role_keeps_is_in_a_folder_that_it_alone_may_enter(role: str) -> None:
    own = service(role)
    folder = PurePath("/var/lib") / own["StateDirectory"]
    assert own["StateDirectoryMode"] == "0700"
    assert PurePath(own["WorkingDirectory"]) == folder
    home = dict(each.split("=") for each in own["Environment"].split())["HOME"]
    assert PurePath(home) == folder
    if role != "client":
        assert PurePath(flags(role)["--state"]) == folder


@pytest.mark.parametrize("role", ["edge", "client"])
def test_many_of_a_role_on_one_machine_are_told_apart_by_their_instance(role: str) -> None:
    assert flags(role) | {"--name": "%i", "--config": "/etc/elsa/%i.yaml"} == flags(role)
    assert service(role)["StateDirectory"] == service(role)["CacheDirectory"] == "elsa/%i"


@every_role
def test_a_role_is_asked_to_end_given_time_and_started_again_whatever_ended_it(role: str) -> None:
    own = service(role)
    assert own["KillSignal"] == "SIGTERM"
    assert int(own["TimeoutStopSec"]) >= 30
    assert own["Restart"] == "always"
    assert int(own["RestartSec"]) >= 5


@pytest.mark.parametrize("role", SERVERS)
def test_a_server_of_the_examples_reads_the_list_of_the_revoked(role: str) -> None:
    settings = merged(SERVERS[role], {}, FOLDER / f"{role}.yaml", role)
    assert settings.tls.crl is not None
    assert settings.host == "0.0.0.0"

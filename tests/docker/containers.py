"""The testbed of docker-compose.yml as tests drive it: `docker compose` of one project, and runs that are watched."""

import json
import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
NAMED = ("client-small", "client-medium", "client-large")
SERVERS = ("cloud", "edge-1", "edge-2")
ROLES = (*SERVERS, *NAMED, "client")
IMAGES = {role: f"elsa-{role}:test" for role in ("cloud", "edge", "client")}
VERSION, REVISION = "0.0.test", "feedbed"
BEGIN_S, RUN_S = 180, 240


class Testbed:
    """One compose project; every call of a command is bounded and fails with what it said."""

    __test__ = False

    def __init__(self, project: str, folder: Path) -> None:
        self.project = project
        self._folder = folder
        self._specs = 0

    def docker(self, *arguments: str, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """`docker …`."""
        done = subprocess.run(
            ["docker", *arguments], cwd=ROOT, env=self._env(), capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done

    def compose(self, *arguments: str, check: bool = True, timeout_s: float = 120, **env: str) -> Any:
        """`docker compose …` of this project; `env` sets its variables."""
        command = ["docker", "compose", "-p", self.project, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self._env(**env), capture_output=True, text=True, timeout=timeout_s
        )
        assert done.returncode == 0 or not check, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
        return done

    def up(self, *services: str, **env: str) -> None:
        """Start services, all roles if none is named, and wait until they are healthy."""
        self.compose("up", "-d", "--wait", *(services or ROLES), timeout_s=BEGIN_S, **env)

    def container(self, service: str, index: int = 1) -> str:
        """The name of a service's container."""
        return f"{self.project}-{service}-{index}"

    def inspect(self, name: str) -> Any:
        """What the engine knows of a container or an image."""
        return json.loads(self.docker("inspect", name).stdout)[0]

    def python(
        self, service: str, code: str, *arguments: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run Python in a running container of a service."""
        return self.docker("exec", self.container(service), "python", "-c", code, *arguments, check=check)

    def logs(self, *services: str, tail: str = "all") -> str:
        """What services have said."""
        return str(self.compose("logs", "--no-color", "--tail", tail, *services, check=False).stdout)

    def wait_said(self, service: str, pattern: str, timeout_s: float = 60) -> str:
        """Follow a service's log from now on until a line fits; the line."""
        command = ["docker", "logs", "--follow", "--since", "1s", self.container(service)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self._env()
        ) as process:
            timer = threading.Timer(timeout_s, process.kill)
            timer.start()
            try:
                for line in process.stdout or ():
                    if re.search(pattern, line):
                        return line
            finally:
                timer.cancel()
                process.kill()
        raise AssertionError(f"{service} said nothing like {pattern!r} within {timeout_s:g} s:\n{self.logs(service)}")

    def spec(self, **parts: Any) -> str:
        """A file of the testbed's own specification with other parts; small unless they say otherwise."""
        spec = yaml.safe_load((ROOT / "examples" / "testbed.yaml").read_text())
        for name, part in {"training": {"rounds": 2, "local_steps": 8}, **parts}.items():
            spec[name] = {**spec.get(name, {}), **part} if isinstance(part, dict) else part
        self._specs += 1
        path = self._folder / f"spec-{self._specs}.yaml"
        path.write_text(yaml.safe_dump(spec))
        path.chmod(0o644)
        return str(path)

    def submit(self, spec: str) -> "Run":
        """Submit a run as the admin, and follow it."""
        name = self.container("followed", self._specs)
        flags = ("--rm", "-T", "--no-deps", "--name", name)
        command = ["docker", "compose", "-p", self.project, "run", *flags, "submit"]
        return Run(
            name,
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._env(ELSA_SPEC=spec),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
            ),
        )

    def down(self) -> None:
        """Take all down, volumes too."""
        self.compose("--profile", "*", "down", "-v", "--remove-orphans", "-t", "3", check=False)

    def _env(self, **more: str) -> dict[str, str]:
        images = {f"ELSA_{role.upper()}_IMAGE": tag for role, tag in IMAGES.items()}
        return {
            **os.environ,
            **images,
            "ELSA_VERSION": VERSION,
            "ELSA_REVISION": REVISION,
            "BUILDKIT_PROGRESS": "plain",
            **more,
        }


class Run:
    """A run that is followed; ended, whatever happens, after `RUN_S`."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self._name = name
        self._process = process
        self._timer = threading.Timer(RUN_S, process.kill)
        self._timer.start()
        self.lines: list[str] = []

    def until(self, pattern: str) -> str:
        """Follow it until a line fits; the line."""
        for line in self._process.stdout or ():
            self.lines.append(line.rstrip())
            if re.search(pattern, line):
                return line
        raise AssertionError(f"the run ended before {pattern!r}:\n" + "\n".join(self.lines))

    def end(self) -> int:
        """Follow it to its end; its status."""
        self.lines += [line.rstrip() for line in self._process.stdout or ()]
        self._timer.cancel()
        return self._process.wait(30)

    def stop(self) -> None:
        """Follow it no longer: its container is removed, if it is there still."""
        self._timer.cancel()
        subprocess.run(["docker", "rm", "-f", self._name], capture_output=True, check=False)
        self._process.kill()
        self._process.communicate(timeout=30)

    def said(self, pattern: str) -> list[str]:
        """What stands in the first group of the pattern, in each line that fits."""
        return [found[1] for line in self.lines if (found := re.search(pattern, line))]

"""The supervisor: a death is told with its last lines, nothing is left behind, nothing hangs."""

import os
import queue
import signal
import subprocess
import sys
import time

import pytest

from elsa.errors import RoleDiedError
from services.testbed.processes import Processes, last_lines

SERVE = """
import json, os, signal, sys
print("serves", flush=True)
open(sys.argv[1] + ".aside", "w").write(json.dumps({"address": "here:1", "pid": os.getpid()}))
os.rename(sys.argv[1] + ".aside", sys.argv[1])
signal.pause()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SERVE
DIE = "import sys; [print('line', n) for n in range(30)]; sys.exit(7)"
INTERRUPTED = """
import sys
from pathlib import Path
from services.testbed.processes import Processes
with Processes(Path(sys.argv[1])) as processes:
    role = processes.start("child", [sys.executable, "-c", sys.argv[2], sys.argv[3]])
    processes.wait_ready(role, Path(sys.argv[3]), 30)
    print(role.process.pid, flush=True)
    sys.stdin.read()
"""


def python(code, *arguments):
    return [sys.executable, "-c", code, *map(str, arguments)]


def started(processes, tmp_path, name="child", code=SERVE):
    file = tmp_path / f"{name}.json"
    role = processes.start(name, python(code, file))
    assert processes.wait_ready(role, file, 30) == "here:1"
    return role


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_leaving_the_context_ends_every_child(tmp_path):
    with Processes(tmp_path / "logs") as processes:
        pids = [started(processes, tmp_path, f"role-{n}").process.pid for n in range(3)]
        assert all(map(alive, pids))
    assert not any(map(alive, pids))


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(tmp_path):
    processes = Processes(tmp_path / "logs", grace_s=0.2)
    role = started(processes, tmp_path, code=STUBBORN)
    begin = time.monotonic()
    processes.stop()
    assert role.process.returncode == -signal.SIGKILL
    assert time.monotonic() - begin < 10


def test_a_child_that_dies_before_it_is_ready_is_told_with_its_last_lines(tmp_path):
    with Processes(tmp_path / "logs") as processes:
        role = processes.start("edge-1", python(DIE))
        with pytest.raises(RoleDiedError, match=r"edge-1 .*exit code 7.*line 20 \| .*line 29$") as raised:
            processes.wait_ready(role, tmp_path / "never.json", 60)
    assert "line 19" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_waiting_for_one_role_notices_the_death_of_another(tmp_path):
    with Processes(tmp_path / "logs") as processes:
        waiting = processes.start("slow", python("import signal; signal.pause()"))
        processes.start("dying", python(DIE))
        with pytest.raises(RoleDiedError, match=r"^dying "):
            processes.wait_ready(waiting, tmp_path / "never.json", 60)


def test_a_role_that_is_never_ready_is_given_up(tmp_path):
    with Processes(tmp_path / "logs") as processes:
        role = processes.start("slow", python("import signal; signal.pause()"))
        with pytest.raises(RoleDiedError, match=r"slow was not ready within 0\.1 s"):
            processes.wait_ready(role, tmp_path / "never.json", 0.1)


def test_a_later_death_is_told_by_the_monitor_and_a_stop_is_not(tmp_path):
    deaths = queue.Queue()
    with Processes(tmp_path / "logs", died=deaths.put) as processes:
        started(processes, tmp_path, "fine")
        doomed = started(processes, tmp_path, "doomed")
        doomed.process.kill()
        assert "doomed ended by itself by signal 9" in str(deaths.get(timeout=30))
        with pytest.raises(RoleDiedError, match="doomed"):
            processes.check()
    assert deaths.empty()


def test_each_child_is_told_its_threads_and_leads_its_own_session(tmp_path):
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.getsid(0) == os.getpid())"
    processes = Processes(tmp_path / "logs", threads=3)
    role = processes.start("child", python(code))
    role.process.wait(30)
    assert role.log.read_text() == "3 True\n"


def test_no_child_takes_the_certificate_of_whoever_starts_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ELSA_TLS_CERT", "ops.pem")
    code = "import os; print([name for name in os.environ if name.startswith('ELSA_TLS')])"
    role = Processes(tmp_path / "logs").start("child", python(code))
    role.process.wait(30)
    assert role.log.read_text() == "[]\n"


def test_an_interrupt_of_the_parent_ends_the_children(tmp_path):
    command = python(INTERRUPTED, tmp_path / "logs", SERVE, tmp_path / "child.json")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.send_signal(signal.SIGINT)
        parent.wait(30)
    assert not alive(child)


def test_last_lines_of_a_missing_or_empty_log_are_said_to_be_so(tmp_path):
    (tmp_path / "empty.log").touch()
    assert last_lines(tmp_path / "none.log") == "(no log)"
    assert last_lines(tmp_path / "empty.log") == "(empty)"

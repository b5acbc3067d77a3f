"""A PostgreSQL of a test's own: in its folder, on loopback, as a user that is not root."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("initdb", "pg_ctl", "postgres")


def why_not():
    """Why no PostgreSQL can be started here; empty if one can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no {', '.join(missing)} on the path"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "PostgreSQL does not run as root, and there is no setpriv"
    try:
        import pg8000  # noqa: F401
    except ImportError:
        return "pg8000 is not installed (the extra postgres)"
    return ""


class Postgres:
    """A server whose databases are asked for by name."""

    def __init__(self, folder):
        self._data = Path(folder) / "data"
        self._log = Path(folder) / "log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._as = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        if self._as:
            os.chown(folder, 65534, 65534)
        self._run("initdb", "--auth=trust", "--username=elsa", "--no-sync", "--locale=C.UTF-8", "--encoding=UTF8")

    def start(self):
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "start", "--wait", f"--log={self._log}", "-o", options)

    def stop(self, how="immediate"):
        """`immediate` is as if it was killed."""
        self._run("pg_ctl", "stop", "--wait", f"--mode={how}")

    @contextmanager
    def hanging(self):
        """Within it the server takes connections and says nothing, as when its disk stalls."""
        first = int((self._data / "postmaster.pid").read_text().split()[0])
        processes = [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in reversed(processes):
                os.kill(process, signal.SIGCONT)

    def url(self, database):
        """The URL of a new, empty database."""
        import pg8000.dbapi

        connection = pg8000.dbapi.connect("elsa", host="127.0.0.1", port=self.port, database="postgres")
        connection.autocommit = True
        connection.cursor().execute(f'CREATE DATABASE "{database}"')
        connection.close()
        return f"postgresql://elsa@127.0.0.1:{self.port}/{database}"

    def _run(self, program, *arguments):
        command = [*self._as, program, f"--pgdata={self._data}", *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=sys.stderr, timeout=60, check=False
        )
        assert done.returncode == 0, f"{program}: {self._log.read_text() if self._log.exists() else done.returncode}"


@contextmanager
def postgres():
    """A server that runs."""
    with tempfile.TemporaryDirectory(prefix="elsa-pg-", ignore_cleanup_errors=True) as folder:
        server = Postgres(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()

"""A way to a server with a latency and a bandwidth: a TCP proxy, for where the kernel's shaper is not allowed.

Each direction is a `Line`: bytes pass one after another at its rate, then travel for half the latency. A connection
is two pipes, and a pipe two threads: one reads what fits, the other writes what is due. Measured with empty and large
pings of gRPC through it, on two busy cores: 10 Mbit/s within 2 %, 100 Mbit/s within 10 %, latencies from 0 to 100 ms
0.3 to 1.7 ms late, which holds the call itself. It runs in the testbed's own process, which only follows events
meanwhile; beside a thread that computes in Python it would be 10 to 20 ms late. asyncio keeps the rates as well, and
is a millisecond later with epoll, whose timers count whole ones. At 500 Mbit/s and above it is the machine that
limits (0.6 to 0.9 of the rate).

A peer's reset is passed on as one, behind the bytes that came before it, which still arrive; only what goes to that
peer is lost.

What it does not do: lose, reorder or corrupt; delay the opening of a connection; share one line between links.
"""

import logging
import math
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from types import TracebackType

from elsa.errors import SpecError

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
TURN_S = 0.002
"""What a chunk takes on the line, so that connections take turns."""
LEAST_CHUNK, MOST_CHUNK = 1024, 65536
SLACK_S = 0.02
"""Bytes that wait for the line, so that it is never idle when a thread wakes late."""
MOST_HELD = 8 * 2**20
LEAST_KERNEL = 65536
CONNECT_S = 10.0
ACCEPT_AGAIN_S = 0.5
"""After a connection that could not be taken, as for want of file descriptors: it waits in the kernel."""
AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER by which closing resets."""


class Line:
    """One direction of a link, as arithmetic: a token bucket of depth nought, shared by all connections.

    Args:
        bytes_per_s: above 0; infinite for a line that only delays.
        delay_s: how long a byte travels once it has passed, at least 0 and finite.

    Raises:
        SpecError: for a rate or a delay that cannot be.
    """

    def __init__(self, bytes_per_s: float, delay_s: float) -> None:
        if not bytes_per_s > 0 or not 0 <= delay_s < math.inf:
            raise SpecError(
                f"link of {bytes_per_s:g} bytes/s and {delay_s:g} s each way: give a rate above 0 and a latency of 0 "
                "or more"
            )
        self._rate, self._delay_s = bytes_per_s, delay_s
        self._free_at = -math.inf
        self._lock = threading.Lock()
        self.chunk = int(min(max(bytes_per_s * TURN_S, LEAST_CHUNK), MOST_CHUNK))
        """Most bytes of one turn."""
        self.held = int(min(bytes_per_s * (delay_s + SLACK_S), MOST_HELD))
        """Bytes of a connection that are on their way or wait: the bandwidth-delay product and the slack."""

    def due(self, size: int, now: float) -> float:
        """When `size` bytes that come at `now` have arrived at the other end, behind all that came before."""
        with self._lock:
            self._free_at = max(self._free_at, now) + size / self._rate
            return self._free_at + self._delay_s


class Link:
    """Within its context, an address on loopback from which `target` is as far as told.

    Args:
        target: host:port of the server.
        latency_ms: added to a round trip, half of it each way.
        up_bytes_per_s: to the server, all connections together; infinite for as fast as the machine.
        down_bytes_per_s: from it.

    Raises:
        SpecError: for figures that cannot be.
    """

    def __init__(self, target: str, latency_ms: float, up_bytes_per_s: float, down_bytes_per_s: float) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._up = Line(up_bytes_per_s, latency_ms / 2000)
        self._down = Line(down_bytes_per_s, latency_ms / 2000)
        self._lock = threading.Lock()
        self._open: set[_Connection] = set()
        self._threads: set[threading.Thread] = set()
        self._closed = threading.Event()

    def __enter__(self) -> str:
        """Listen; the address, host:port."""
        self._listener = socket.create_server((LOOPBACK, 0))
        _hold_little(self._listener, self._up)
        self._accepting = threading.Thread(target=self._accept, name="link", daemon=True)
        self._accepting.start()
        return f"{LOOPBACK}:{self._listener.getsockname()[1]}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Break every connection; what is on its way is lost."""
        with self._lock:
            self._closed.set()
            for connection in self._open:
                connection.break_()
        with self._listener:
            with suppress(OSError):  # ends the wait for the next connection on Linux, without a descriptor
                self._listener.shutdown(socket.SHUT_RDWR)
            with suppress(OSError):  # and elsewhere
                socket.create_connection(self._listener.getsockname(), CONNECT_S).close()
            self._accepting.join()
        for thread in tuple(self._threads):
            thread.join()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError as error:
                if not self._closed.is_set():
                    log.warning(
                        "a link to %s:%d takes no connection: %s; trying again", *self._target, error.strerror
                    )
                self._closed.wait(ACCEPT_AGAIN_S)
                continue
            thread = threading.Thread(target=self._serve, args=(near,), name="link-connection", daemon=True)
            with self._lock:
                self._threads.add(thread)
                thread.start()

    def _serve(self, near: socket.socket) -> None:
        """One connection until it has ended; a target that is not there resets it."""
        with near:
            try:
                with socket.socket() as far:
                    _hold_little(far, self._down)
                    far.settimeout(CONNECT_S)
                    far.connect(self._target)
                    far.settimeout(None)
                    self._carry(_Connection(near, far, self._up, self._down))
            except OSError as error:
                log.warning("a connection of a link to %s:%d ended: %s", *self._target, error.strerror or error)
                _End(near).reset_when_closed()
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _carry(self, connection: "_Connection") -> None:
        with self._lock:
            if self._closed.is_set():
                return
            self._open.add(connection)
        connection.carry()
        with self._lock:
            self._open.discard(connection)


class _End:
    """One of the two sockets of a connection."""

    def __init__(self, socket_: socket.socket) -> None:
        self._socket = socket_
        with suppress(OSError):  # its peer is gone, which the first read says
            socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_reset = False
        """Whether its peer is gone without a farewell."""

    def read(self, size: int) -> bytes:
        """What there is, at most `size` bytes; empty at the end or at a reset, which is noted."""
        try:
            return self._socket.recv(size)
        except OSError:
            self.is_reset = True
            return b""

    def write(self, data: bytes) -> bool:
        """Give it all of `data`, or close this direction where that is empty; False at a reset, which is noted."""
        try:
            if data:
                self._socket.sendall(data)
            else:
                self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.is_reset = True
        return not self.is_reset

    def shut(self, how: int) -> None:
        """Wake who waits for it: SHUT_RD, of which the peer learns nothing, or SHUT_RDWR."""
        with suppress(OSError):  # its peer is gone
            self._socket.shutdown(how)

    def reset_when_closed(self) -> None:
        """Let closing it tell the peer of no farewell."""
        with suppress(OSError):  # its peer is gone
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)


class _Connection:
    """Two sockets and what goes between them."""

    def __init__(self, near: socket.socket, far: socket.socket, up: Line, down: Line) -> None:
        self._ends = client, server = _End(near), _End(far)
        self._up, self._down = _Pipe(client, server, up), _Pipe(server, client, down)

    def carry(self) -> None:
        """Return once both directions have ended; where a peer reset it, the sockets reset when they are closed."""
        works = (self._up.read, self._down.read, self._write_up, self._write_down)
        threads = [threading.Thread(target=work, name="link-pipe", daemon=True) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if any(end.is_reset for end in self._ends):
            for end in self._ends:
                end.reset_when_closed()

    def break_(self) -> None:
        """End both directions now."""
        for pipe in (self._up, self._down):
            pipe.break_()
        for end in self._ends:
            end.shut(socket.SHUT_RDWR)

    def _write_up(self) -> None:
        if self._up.write():
            self._down.break_()

    def _write_down(self) -> None:
        if self._down.write():
            self._up.break_()


class _Pipe:
    """One direction of a connection: what is read is held until it is due, in order, at most `line.held` bytes."""

    def __init__(self, source: _End, sink: _End, line: Line) -> None:
        self._source, self._sink, self._line = source, sink, line
        self._changed = threading.Condition()
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._is_broken = False

    def read(self) -> None:
        """Take from the source what fits, until its end or reset, which is carried on as an empty chunk."""
        is_ended = False
        while not is_ended:
            data = self._source.read(self._line.chunk)
            with self._changed:
                self._waiting.append((self._line.due(len(data), time.monotonic()), data))
                self._held += len(data)
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._held <= self._line.held or self._is_broken)
                is_ended = not data or self._is_broken

    def write(self) -> bool:
        """Give the sink what is due, until the end of the source, which closes this direction alone.

        True if the source's reset is due: the sink has all that came before, and the other direction has no receiver.
        """
        while (data := self._next()) is not None:
            if not data and self._source.is_reset:
                return True
            if not self._sink.write(data):  # nobody takes it; what the sink sent before still goes the other way
                self.break_()
            if not data:
                return False
            with self._changed:
                self._held -= len(data)
                self._changed.notify_all()
        return False

    def break_(self) -> None:
        """Drop what is held and take no more."""
        with self._changed:
            self._is_broken = True
            self._changed.notify_all()
        self._source.shut(socket.SHUT_RD)

    def _next(self) -> bytes | None:
        """The next chunk, once it is due; None when broken."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_broken)
            while not self._is_broken and (left_s := self._waiting[0][0] - time.monotonic()) > 0:
                self._changed.wait(left_s)
            return None if self._is_broken else self._waiting.popleft()[1]


def _hold_little(end: socket.socket, line: Line) -> None:
    """Keep what the kernel holds ahead of a line near what the line holds, so that a sender meets its rate soon."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, max(line.held, LEAST_KERNEL))

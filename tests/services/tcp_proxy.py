"""A TCP proxy that cuts its connections when a schedule says so: the network's faults, at chosen points."""

import socket
import threading
from contextlib import suppress


class Proxy:
    """Listens on `address` and passes bytes to `target`; `cut` breaks what is open, `cut_after` at a byte count."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._lock = threading.Lock()
        self._pairs = []
        self._left = None
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self):
        """Break every open connection."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self.cuts += bool(pairs)
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def cut_after(self, upward_bytes):
        """Break the connections once that many more bytes have gone from the client to the target."""
        with self._lock:
            self._left = upward_bytes

    def close(self):
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:  # nobody there: the client sees its connection closed
                near.close()
                continue
            with self._lock:
                self._pairs.append((near, far))
            for source, sink, counted in ((near, far, True), (far, near, False)):
                thread = threading.Thread(target=self._pump, args=(source, sink, counted), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source, sink, counted):
        with source, suppress(OSError):
            while data := source.recv(65536):
                if counted and self._is_spent(len(data)):
                    self.cut()
                    return
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def _is_spent(self, count):
        with self._lock:
            if self._left is None:
                return False
            self._left -= count
            spent = self._left < 0
            if spent:
                self._left = None
            return spent

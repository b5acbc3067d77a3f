"""A caller that speaks HTTP/2 by hand (RFC 9113), to do what gRPC's own never would."""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, GOAWAY = 0, 1, 4, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4
WAIT_S = 20.0


class Peer:
    """A connection to `address`; it takes at most `window` bytes of answers of each call."""

    def __init__(self, address, *, window=65535, source="127.0.0.1"):
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=WAIT_S, source_address=(source, 0))
        self._frames = self._socket.makefile("rb")
        self._stream = -1
        self._socket.sendall(PREFACE)
        self._send(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))

    def begin(self, method):
        """Begin a call and send no message; gives its number."""
        self._stream += 2
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "peer",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        block = b"".join(b"\0" + _string(name) + _string(value) for name, value in fields.items())
        self._send(HEADERS, END_HEADERS, self._stream, block)
        return self._stream

    def call(self, method, message=b""):
        """Begin a call and send its one message; gives its number."""
        stream = self.begin(method)
        self._send(DATA, END_STREAM, stream, b"\0" + struct.pack(">I", len(message)) + message)
        return stream

    def until(self, kind):
        """Read frames up to one of `kind`."""
        while True:
            size = int.from_bytes(self._frames.read(3), "big")
            found, flags, _ = struct.unpack(">BBI", self._frames.read(6))
            self._frames.read(size)
            if found == SETTINGS and not flags & ACK:
                self._send(SETTINGS, ACK, 0, b"")
            if found == kind:
                return

    def close(self):
        self._frames.close()
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def _send(self, kind, flags, stream, payload):
        self._socket.sendall(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload)


def _string(text):
    data = text.encode()
    assert len(data) < 127
    return bytes([len(data)]) + data

"""A client's half of `FetchBlocks`: a stub that counts, breaks and alters, and a client without a model."""

from contextlib import ExitStack, contextmanager
from threading import Event
from types import SimpleNamespace

import grpc
import pytest
from split_harness import RUN

from services.client.base import RunBase
from services.client.patience import Patience
from services.client.settings import ClientSettings

OWN = (0, 3)
"""The blocks of a client at HALF."""


class Broken(grpc.RpcError):
    """A stream that broke, as gRPC tells it."""

    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "connection reset"

    def trailing_metadata(self):
        return ()


class Tap:
    """A stub that counts the bytes of contents that are taken from it, and breaks or changes streams.

    Args:
        change: is given every message, and may change it.
        breaks: how many messages each stream with contents gives before it breaks, one number a stream; whole streams
            after that.
    """

    def __init__(self, stub, change=None, breaks=()):
        self._stub, self._change, self._breaks = stub, change, list(breaks)
        self.data_bytes = 0
        self.asked = []
        self.sent = []
        """(digest, first byte, byte after the last) of every chunk taken."""

    def FetchBlocks(self, request, timeout):
        self.asked.append(request)
        call = self._stub.FetchBlocks(request, timeout=timeout)
        most = self._breaks.pop(0) if request.wanted and self._breaks else None
        return _Messages(self._taken(call, most), call.cancel)

    def _taken(self, call, most):
        digest = ""
        for count, message in enumerate(call):
            if count == most:
                raise Broken
            if self._change is not None:
                self._change(message)
            if message.HasField("content"):
                digest = message.content.sha256
            if message.HasField("chunk"):
                size = len(message.chunk.data)
                self.sent.append((digest, message.chunk.offset, message.chunk.offset + size))
                self.data_bytes += size
            yield message


class _Messages:
    def __init__(self, messages, cancel):
        self._messages, self.cancel = messages, cancel

    def __iter__(self):
        return self._messages


class Device:
    """A client without a model of its own, whose edge is `stub` whatever address it is told."""

    def __init__(self, cache, stub, *, name="ann", run_id=RUN, **given):
        self.stub = stub
        fields = {"name": name, "weights": "edge", "cache": cache, "max_cache_mib": 512, "patience_s": 5.0}
        self.base = RunBase(run_id, ClientSettings(**{**fields, **given}))

    def open(self, spec):
        return self.base.open(spec, lambda: [self])

    def complete(self):
        """Receive all."""
        assert Patience("tiny-1", 5.0, Event()).until(lambda: self.base.complete(OWN, self.stub, "edge one"))

    def fetched(self, spec):
        checkpoint = self.open(spec)
        self.complete()
        return checkpoint


def stay(device, dialer):
    """Stands for a stay at an edge."""
    return SimpleNamespace(stubs=lambda: (device.stub, None), peer="edge one", end=lambda: None)


@contextmanager
def devices():
    """Makes devices; lets go of their caches at the end."""
    with pytest.MonkeyPatch.context() as patched, ExitStack() as stack:
        patched.setattr("services.client.base.Stay", stay)

        def make(*args, **given):
            device = Device(*args, **given)
            stack.callback(device.base.close)
            return device

        yield make

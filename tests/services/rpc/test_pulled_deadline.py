"""What an edge reads of a round's deadline in what it pulls."""

import pytest

from elsa.errors import MalformedError
from elsa.v1 import adapter_pb2 as pb
from services.rpc.adapters import Pulled, pull, pulled_messages


class Stub:
    """A cloud whose answer is given."""

    def __init__(self, **header):
        self._messages = list(pulled_messages(Pulled(version=3, data=b"x")))
        self._messages[0].header.MergeFrom(pb.PulledHeader(**header))

    def PullAdapter(self, request, timeout):
        return Messages(self._messages)


class Messages(list):
    def __iter__(self):
        return iter(list(super().__iter__()))

    def __next__(self):
        return self.pop(0)

    def cancel(self):
        pass


def test_a_deadline_is_read_where_there_is_one():
    assert pull(Stub(deadline_s=90.5), pb.PullAdapterRequest()).deadline_s == 90.5
    assert pull(Stub(), pb.PullAdapterRequest()).deadline_s is None


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_that_cannot_be_is_refused(bad):
    with pytest.raises(MalformedError, match="deadline_s"):
        pull(Stub(deadline_s=bad), pb.PullAdapterRequest())

"""What an edge reads of the time that a round has left in what it pulls."""

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


@pytest.mark.parametrize(
    ("header", "left_s"), [({"deadline_s": 90.5, "left_s": 7.5}, 7.5), ({"deadline_s": 90.5}, 90.5), ({}, None)]
)
def test_what_is_left_is_read_and_of_a_cloud_that_does_not_say_it_the_whole(header, left_s):
    assert pull(Stub(**header), pb.PullAdapterRequest()).left_s == left_s


@pytest.mark.parametrize("field", ["deadline_s", "left_s"])
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_cannot_be_is_refused(field, bad):
    with pytest.raises(MalformedError, match=field):
        pull(Stub(**{field: bad}), pb.PullAdapterRequest())

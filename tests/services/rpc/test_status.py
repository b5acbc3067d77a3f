"""The table from errors to gRPC codes, both ways."""

import grpc
import pytest

from elsa import errors
from services.rpc.status import NAME_KEY, TABLE, code_of, error_of, name_of, translated


class Failure(grpc.RpcError):
    """What a stub raises, as much of it as is read."""

    def __init__(self, code, text, metadata=()):
        self.code = lambda: code
        self.details = lambda: text
        self.trailing_metadata = lambda: metadata


def every_error(root=errors.ElsaError):
    return [root, *(one for child in root.__subclasses__() for one in every_error(child))]


def test_every_error_has_one_row():
    assert sorted(error.__name__ for error, _ in TABLE) == sorted(error.__name__ for error in every_error())


@pytest.mark.parametrize("kind", every_error())
def test_an_error_comes_back_as_it_was_raised(kind):
    error = kind("the text")
    back = error_of(Failure(code_of(error), str(error), name_of(error)), "edge-1")
    if code_of(error) is grpc.StatusCode.INTERNAL:
        assert type(back) is errors.PeerError
        assert str(back) == "edge-1 failed (INTERNAL): the text; see its log"
    else:
        assert type(back) is kind and str(back) == "the text"


@pytest.mark.parametrize(("code", "kind"), {code: kind for kind, code in reversed(TABLE)}.items())
def test_a_code_alone_gives_the_first_error_of_its_rows(code, kind):
    back = error_of(Failure(code, "the text"), "edge-1")
    if code is grpc.StatusCode.INTERNAL:
        assert type(back) is errors.PeerError
    elif code is grpc.StatusCode.UNAVAILABLE:  # gRPC's own word, or a proxy's: ours has a name
        assert type(back) is errors.UnreachableError
        assert str(back) == "edge-1 does not answer; check that it runs and its address"
    else:
        assert type(back) is kind and str(back) == "the text"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, "edge-1 did not answer in time"),
        (grpc.StatusCode.CANCELLED, "edge-1 was not heard out"),
    ],
)
def test_silence_names_the_peer(code, text):
    back = error_of(Failure(code, "Deadline Exceeded"), "edge-1")
    assert type(back) is errors.UnreachableError and str(back).startswith(text)


@pytest.mark.parametrize("name", ["NoSuchError", "NotFoundError", "Exception", b"DrainingError"])
def test_a_name_that_does_not_fit_its_code_is_not_believed(name):
    back = error_of(Failure(grpc.StatusCode.UNAVAILABLE, "x", ((NAME_KEY, name),)), "edge-1")
    assert type(back) is errors.UnreachableError


def test_other_codes_name_peer_code_and_text():
    back = error_of(Failure(grpc.StatusCode.UNIMPLEMENTED, ""), "edge-1")
    assert type(back) is errors.PeerError and str(back) == "edge-1 failed (UNIMPLEMENTED): no detail; see its log"


def test_only_failed_calls_are_translated():
    with pytest.raises(errors.NotFoundError, match="who"), translated("edge-1"):
        raise Failure(grpc.StatusCode.NOT_FOUND, "who")
    with pytest.raises(KeyError), translated("edge-1"):
        raise KeyError

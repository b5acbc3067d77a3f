"""What docs/api.md lists of a call's errors is read as it is meant, and what it does not list is told."""

import asyncio

import grpc
import pytest
from listed_codes import ANY, listed, noted, unlisted

from elsa.errors import NotFoundError

CODES = {code.name for code in grpc.StatusCode}


def test_every_call_is_read_from_the_page_with_its_codes():
    found = listed()
    assert len(found) == 24
    assert found["FleetService.RegisterClient"] == {"INVALID_ARGUMENT", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"}
    assert found["FleetService.ListEdges"] == set()
    assert set().union(*found.values()) <= CODES


def test_what_is_not_listed_is_told():
    odd = ("FleetService.ListEdges", "ABORTED")
    assert unlisted([odd, ("FleetService.WatchAssignment", "NOT_FOUND")]) == [odd]
    assert not unlisted(("FleetService.ListEdges", code) for code in ANY)


def refuse():
    raise NotFoundError("nothing")


async def single(_self):
    refuse()


async def stream(_self):
    yield refuse()


def stream_at_edge(_self):
    yield refuse()


def single_at_edge(_self):
    refuse()


async def all_of(answers):
    return [answer async for answer in answers]


@pytest.mark.parametrize(
    ("method", "drained"),
    [
        (single, asyncio.run),
        (stream, lambda answers: asyncio.run(all_of(answers))),
        (stream_at_edge, list),
        (single_at_edge, None),
    ],
)
def test_the_error_of_every_kind_of_method_is_noted(method, drained):
    seen = set()
    with pytest.raises(NotFoundError):
        answer = noted(method, "RunService.GetRun", seen)(None)
        drained(answer)
    assert seen == {("RunService.GetRun", "NOT_FOUND")}

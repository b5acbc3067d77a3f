"""Holds what the calls of our servicers end with, in whichever test, against the column "errors" of docs/api.md."""

import inspect
import re
from collections.abc import Iterable
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

from elsa.errors import ElsaError
from services.rpc.status import code_of

ANY = {"UNAVAILABLE", "UNAUTHENTICATED", "INTERNAL"}
"""What a servicer may end any call with; what the guard refuses does not get to it."""

Ended = tuple[str, str]
"""`("FleetService.RegisterEdge", "INVALID_ARGUMENT")`."""


def listed() -> dict[str, set[str]]:
    """The codes that the page lists, by call."""
    found: dict[str, set[str]] = {}
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    for section in page.partition("\n## Messages")[0].split("\n## ")[1:]:
        service = section.split("\n", 1)[0]
        for name, codes in re.findall(r"^\| (\w+) \| [^|]*\| [^|]*\| ([A-Z_, ]*) \|", section, re.M):
            found[f"{service}.{name}"] = set(filter(None, codes.split(", ")))
    return found


def unlisted(seen: Iterable[Ended]) -> list[Ended]:
    """What of `seen` the page does not list."""
    known = listed()
    return sorted((call, code) for call, code in seen if code not in known[call] | ANY)


@contextmanager
def noting(call: str, seen: set[Ended]):
    """Within it a call is served; notes the code of an error of ours."""
    try:
        yield
    except ElsaError as error:
        seen.add((call, code_of(error).name))
        raise


def noted(function, call: str, seen: set[Ended]):
    """The method of a servicer, of the same kind, whose errors are noted."""

    async def single(*given):
        with noting(call, seen):
            return await function(*given)

    async def stream(*given):
        with noting(call, seen):
            async for answer in function(*given):
                yield answer

    def single_at_edge(*given):
        with noting(call, seen):
            return function(*given)

    def stream_at_edge(*given):
        with noting(call, seen):
            yield from function(*given)

    kinds = (
        (inspect.iscoroutinefunction, single),
        (inspect.isasyncgenfunction, stream),
        (inspect.isgeneratorfunction, stream_at_edge),
    )
    return wraps(function)(next((made for is_it, made in kinds if is_it(function)), single_at_edge))


def note_all(patched, seen: set[Ended]) -> None:
    """Have every servicer of ours note its errors in `seen`, while `patched` lasts."""
    from services.cloud import adapter_servicer, fleet_servicer, run_servicer
    from services.edge import adapter_servicer as adapter_servicer_at_edge
    from services.edge import split_servicer

    servicers = {
        fleet_servicer.FleetServicer: "FleetService",
        run_servicer.RunServicer: "RunService",
        adapter_servicer.AdapterServicer: "AdapterService",
        adapter_servicer_at_edge.AdapterServicer: "AdapterService",
        split_servicer.SplitServicer: "SplitService",
    }
    for servicer, service in servicers.items():
        for call in (name for name in listed() if name.startswith(f"{service}.")):
            name = call.partition(".")[2]
            patched.setattr(servicer, name, noted(vars(servicer)[name], call, seen))

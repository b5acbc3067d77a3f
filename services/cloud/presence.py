"""Who of a run's members is there, and for how long something has lasted while the cloud was."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from elsa.errors import CapacityError
from services.cloud.fleet import Fleet
from services.cloud.reach import joined_edges
from services.cloud.records import Member, Role

Placed = TypeVar("Placed")


class Presence:
    """As the fleet's heartbeats say; a node silent for `gone_after_s` seconds, or refused, is not waited for."""

    def __init__(self, fleet: Fleet, *, gone_after_s: float) -> None:
        self._fleet, self._gone_after_s = fleet, gone_after_s

    @property
    def begin_unix_s(self) -> float:
        """When the cloud started."""
        return self._fleet.begin_unix_s

    def is_alive(self, node_id: str) -> bool:
        """Whether a node was heard lately."""
        return self._fleet.is_alive(node_id)

    def age(self, begin_unix_s: float, now: float) -> float:
        """Seconds from then to `now`, from the cloud's start at the earliest."""
        return now - max(begin_unix_s, self.begin_unix_s)

    def is_heard(self, node_id: str) -> bool:
        """Whether a node was heard lately, and since the cloud started."""
        return self._fleet.is_heard(node_id)

    def refusal(self, node_id: str) -> str:
        """Why a node is not let in; empty where that is not known of it."""
        return self._fleet.refusal(node_id)

    def gone(self, members: Sequence[Member]) -> dict[str, str]:
        """Those who have been silent for too long to be waited for or are not let in, with which of it."""
        names = (member.node_id for member in members)
        return {name: self._why(name) for name in names if self.refusal(name) or self._is_long_silent(name)}

    def silent(self, members: Sequence[Member]) -> dict[str, str]:
        """Those who were not heard lately, and why or for how long."""
        quiet = [member.node_id for member in members if not self._fleet.is_alive(member.node_id)]
        return {node_id: self._why(node_id) for node_id in quiet}

    def _is_long_silent(self, node_id: str) -> bool:
        return self._fleet.silent_s(node_id) > self._gone_after_s

    def _why(self, node_id: str) -> str:
        return self.refusal(node_id) or f"not heard of for {self._fleet.silent_s(node_id):.0f} s"

    def reachable(self, members: list[Member]) -> list[Member]:
        """The members but for edges that are gone; all of them where no edge is there."""
        gone = set(self.gone(members))
        there = [member for member in members if member.role is Role.CLIENT or member.node_id not in gone]
        return there if any(member.role is Role.EDGE for member in there) else members

    async def placed(self, members: list[Member], decide: Callable[[list[Member]], Placed]) -> Placed | None:
        """What `decide` makes of the members that can be reached, of all where those have too little room.

        None where all have, too, and an edge is to be heard again first: `rehoming.py` then sees to its clients.
        Raises CapacityError where nobody is waited for.
        """
        for chosen in (self.reachable(members), members):
            try:
                return await asyncio.to_thread(decide, chosen)
            except CapacityError as error:
                fault = error
        if all(self.is_alive(edge_id) for edge_id in joined_edges(members)):
            raise fault
        return None

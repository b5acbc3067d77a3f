"""Has a run's splits planned, from the profiles that the database holds; arithmetic goes to a thread."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from elsa.spec import RunSpec
from services.cloud.keys import works
from services.cloud.planning import Planning, Replanned, planned, replanned
from services.cloud.records import Member, Profile, Run
from services.cloud.renewing import Renewal
from services.cloud.round_records import ClientReport, Update
from services.cloud.store import Store

log = logging.getLogger(__name__)


class Planner:
    """Plans runs of `store`; nothing is written."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def first(self, run: Run, members: Sequence[Member], homes: Mapping[str, str]) -> Planning | None:
        """The plan for clients at these edges; None in a run whose splits are given.

        Raises CapacityError with the reasons if nobody can take part.
        """
        spec = RunSpec.from_yaml(run.spec)
        if not spec.plans_splits:
            return None
        profiles = self._profiles(run)
        made = await asyncio.to_thread(planned, spec, members, profiles, homes)
        return replace(made, made_from=tuple(profiles))

    async def again(
        self, run: Run, members: Sequence[Member], updates: Sequence[Update], renewal: Renewal | None
    ) -> Replanned | None:
        """What the round that ends tells of devices, and the next plan if it is due; None where splits are given."""
        spec = RunSpec.from_yaml(run.spec)
        if not spec.plans_splits:
            return None
        homes = {member.node_id: member.edge_id for member in members if works(member) and member.edge_id}
        if renewal is not None and renewal.decision is not None:
            homes |= {place.client_id: place.edge_id for place in renewal.decision.places}
        version, reports = (run.version or 0) + 1, _by_edge(updates)
        made = await asyncio.to_thread(replanned, spec, members, self._profiles(run), homes, reports, version)
        for note in made.notes:
            log.warning("run %s, version %d: %s", run.run_id, version, note)
        return made

    def _profiles(self, run: Run) -> list[Profile]:
        with self._store.transaction() as transaction:
            return transaction.all(Profile, run_id=run.run_id)


def _by_edge(updates: Sequence[Update]) -> dict[str, list[ClientReport]]:
    """The reports of all updates of each edge."""
    found: dict[str, list[ClientReport]] = {}
    for update in updates:
        found.setdefault(update.edge_id, []).extend(update.reports)
    return found

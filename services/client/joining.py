"""What a client finds out before it joins a run: rows, model, whether the run fits it, links and its own speed.

No weights are loaded here, so that what does not fit is refused before it costs anything.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from elsa.errors import UnreachableError
from elsa.model.adapter import adapter_config
from elsa.model.adapter_config import AdapterConfig
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec
from elsa.train.fitting import check_fits
from elsa.v1 import fleet_pb2
from services.client.base import RunBase
from services.client.limits import Limits
from services.client.links import measure
from services.client.profile import pace_of, profile_of
from services.client.settings import ClientSettings
from services.client.site import SiteData, load
from services.rpc.dial import LOOPBACK, Dialer
from services.rpc.ledger import Account

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What a client brings to a run."""

    spec: RunSpec
    checkpoint: Checkpoint
    """Perhaps without weights yet."""
    config: AdapterConfig
    data: SiteData
    limits: Limits
    base_digest: str = ""
    """Names the frozen base; empty where that cannot be told."""


def prepared(
    run_id: str,
    spec: RunSpec,
    settings: ClientSettings,
    base: RunBase,
    account: Account,
    edges: Callable[[], Sequence[fleet_pb2.EdgePeer]],
) -> Joined:
    """Open the model, load the rows, and see that this client can carry what is given, or the least where planned.

    Raises:
        CapacityError: it cannot, with the figures.
        InputError, MalformedError, UnreachableError, RoundGivenUpError: as `RunBase.open` and `site.load`.
    """
    checkpoint = base.open(spec, edges)
    labels = len(spec.data.labels)
    check_fits(spec, checkpoint.config(spec.model.task, labels).hidden_size)
    data = load(spec, checkpoint, settings.data, settings.heldout)
    log.info("run %s: %s", run_id, data.report)
    config = adapter_config(checkpoint, spec.lora, spec.model.task, labels)
    limits = Limits.of(spec, checkpoint, config, data.train, settings, account)
    limits.check(limits.least)
    limits.reserve(limits.least)
    return Joined(
        spec=spec, checkpoint=checkpoint, config=config, data=data, limits=limits, base_digest=base.digest(spec)
    )


def offer_of(
    joined: Joined,
    settings: ClientSettings,
    edges: Iterable[fleet_pb2.EdgePeer],
    tell: Callable[[str], None],
    dialer: Dialer = LOOPBACK,
) -> fleet_pb2.ClientOffer:
    """What this client offers: rows, links to `edges`, and what it measured of itself where splits are planned.

    Args:
        tell: is told what it is doing, in words for those who watch.
        dialer: reaches the edges.

    Raises:
        UnreachableError: no edge answers.
        ModelError, SpecError: as `profile_of`.
    """
    tell("measuring links")
    links = measure(edges, dialer)
    if not links:
        raise UnreachableError("no edge answers this client; check the edges' addresses, or set edge_addresses")
    profile = None
    if joined.spec.plans_splits:
        profile = profile_of(
            joined.spec,
            joined.checkpoint,
            joined.config,
            joined.limits,
            settings,
            pace=pace_of(settings).at(0),
            measuring=lambda: tell("measuring itself"),
        )
    return fleet_pb2.ClientOffer(
        train_rows=len(joined.data.train),
        heldout_rows=len(joined.data.heldout),
        row_report=joined.data.report,
        links=links,
        profile=profile,
        base_digest=joined.base_digest,
    )

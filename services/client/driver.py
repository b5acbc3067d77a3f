"""Takes one run through its life at this client: joins it or refuses it, is a member of it, and leaves it."""

import logging
import threading

from elsa.errors import (
    ElsaError,
    NotFoundError,
    PeerError,
    RoundGivenUpError,
    StaleRoundError,
)
from elsa.spec import RunSpec
from elsa.v1 import fleet_pb2
from services.client.base import RunBase
from services.client.joining import Joined, offer_of, prepared
from services.client.keys import RunKeys
from services.client.links import as_reached
from services.client.member import Member
from services.client.settings import ClientSettings
from services.client.stay import Stays
from services.client.tally import Tally
from services.rpc.ledger import Ledger
from services.rpc.node import CALL_TIMEOUT_S, CloudLink

log = logging.getLogger(__name__)


class RunDriver:
    """One run at this client, on a thread of its own. What it fails with ends the run here, and the cloud is told.

    Args:
        spec: the run's specification as YAML.
        ledger: of this process's memory.
        tally: of what this process trains.
    """

    def __init__(
        self,
        run_id: str,
        spec: str,
        *,
        settings: ClientSettings,
        link: CloudLink,
        ledger: Ledger,
        tally: Tally,
    ) -> None:
        self._run_id = run_id
        self._text = spec
        self._settings = settings
        self._link = link
        self._ledger = ledger
        self._tally = tally
        self._offered: fleet_pb2.Assignment | None = None
        self._stays = Stays(run_id, link.dialer)
        self._stop = threading.Event()
        self._keys = RunKeys(run_id, link.node_id, self._share)
        self._base = RunBase(run_id, settings, link.dialer)
        self._thread = threading.Thread(target=self._live, name=f"run-{run_id}", daemon=True)

    def start(self) -> None:
        """See `services.rpc.drivers.RunDriver`; the first `update` begins the work."""

    def update(self, assignment: fleet_pb2.Assignment) -> None:
        """See `services.rpc.drivers.RunDriver`."""
        assignment = as_reached(assignment, self._settings.edge_addresses)
        self._keys.tell(assignment.keys)
        self._stays.tell(assignment)
        if self._offered is None:
            self._offered = assignment
            self._thread.start()

    def stop(self) -> None:
        """See `services.rpc.drivers.RunDriver`."""
        self._stop.set()
        self._base.stop()
        self._keys.close()
        self._stays.close()

    def join(self, timeout_s: float) -> None:
        """See `services.rpc.drivers.RunDriver`."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _live(self) -> None:
        try:
            joined = self._join()
            if joined is not None:
                self._member(joined).run()
        except RoundGivenUpError as error:
            log.info("run %s: %s", self._run_id, error)
        except ElsaError as error:
            self._leave(error)
        except Exception as error:
            log.exception("run %s failed at this client", self._run_id)
            self._leave(PeerError(f"{type(error).__name__}; see the log of {self._link.node_id}"))
        finally:
            self._base.close()
            self._ledger.end(self._run_id)
            self._tally.left(self._run_id)
            self._link.forget(self._run_id)

    def _leave(self, error: ElsaError) -> None:
        """Tell the cloud that we leave the run, and why; nothing if it has ended anyway."""
        if self._stop.is_set():
            return
        log.error("run %s failed at this client: %s", self._run_id, error)
        self._link.refuse(self._run_id, str(error))

    def _member(self, joined: Joined) -> Member:
        return Member(
            self._run_id,
            joined,
            settings=self._settings,
            link=self._link,
            stays=self._stays,
            base=self._base,
            keys=self._keys,
            tally=self._tally,
            stop=self._stop,
        )

    def _join(self) -> Joined | None:
        """Find out what we bring to the run, and join; or refuse, saying why.

        A run that is past its enrolment, because this client was restarted, needs no offer.
        """
        offered = self._offered or fleet_pb2.Assignment()
        rejoins = offered.state != fleet_pb2.RUN_STATE_ENROLLING
        try:
            spec = RunSpec.from_yaml(self._text, f"run {self._run_id}")
            account = self._ledger.begin(self._run_id, spec)
            joined = prepared(self._run_id, spec, self._settings, self._base, account, lambda: self._stays.told.edges)
            if rejoins:
                _check_key_is_not_lost(spec)
                return joined
            offer = offer_of(joined, self._settings, offered.edges, self._tell, self._link.dialer)
        except ElsaError as error:
            if self._stop.is_set() or rejoins:
                raise
            log.error("run %s: cannot take part: %s", self._run_id, error)
            self._link.refuse(self._run_id, str(error))
            return None
        if spec.privacy.shares_key:
            offer.public_key = self._keys.public_key
        return joined if self._offer(offer) else None

    def _tell(self, activity: str) -> None:
        self._link.report(fleet_pb2.Progress(run_id=self._run_id, activity=activity))

    def _offer(self, offer: fleet_pb2.ClientOffer) -> bool:
        """Join; False if the run began without us."""
        request = fleet_pb2.JoinRunRequest(run_id=self._run_id, node_id=self._link.node_id, client=offer)
        try:
            self._link.patiently(lambda: self._link.fleet.JoinRun(request, timeout=CALL_TIMEOUT_S))
        except StaleRoundError as error:
            log.warning("run %s: too late to join: %s", self._run_id, error)
            return False
        return True

    def _share(self, request: fleet_pb2.ShareKeysRequest) -> None:
        self._link.patiently(lambda: self._link.fleet.ShareKeys(request, timeout=CALL_TIMEOUT_S))


def _check_key_is_not_lost(spec: RunSpec) -> None:
    """Raise NotFoundError if a run needs a key that was in the memory of the process before this one."""
    ssop = spec.privacy.ssop
    if ssop is not None and ssop.edge == "blind":
        raise NotFoundError(
            "the key of this run was in this client's memory alone, and the client was restarted; what its trunk "
            "learned under that key cannot be gone on with"
        )

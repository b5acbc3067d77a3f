"""Lets calls in at the cloud: as every server's guard, and nobody under the name of a node of another role.

Messages say a name alone. Were an authority to sign `client/edge-1` beside `edge/edge-1`, which `elsa pki` refuses,
one of the two could else act as the other.
"""

from collections.abc import Callable, Iterable, Mapping

from services.cloud.fleet import Fleet
from services.cloud.records import Role
from services.rpc.caller import Caller
from services.rpc.guard import Guard
from services.rpc.rates import Rates


class FleetGuard(Guard):
    """Who may do what at the cloud of a fleet."""

    def __init__(self, fleet: Fleet, revoked: Callable[[int], bool], rates: Rates) -> None:
        super().__init__("cloud", revoked, rates)
        self._fleet = fleet

    def admit(self, method: str, auth_context: Mapping[str, Iterable[bytes]]) -> Caller:
        """As any guard; PermissionDeniedError, too, for a node whose name is registered under another role."""
        caller = super().admit(method, auth_context)
        if caller.identity.role in tuple(Role):  # an admin acts as no node
            with self.noting(method, caller):
                self._fleet.check_role(caller.identity.name, caller.identity.role)
            self._fleet.let_in(caller.identity.name, caller.serial)
        return caller

    def fault(self, caller: Caller) -> str:
        """As any guard; the fleet is told, so that nobody waits for a node that is not let in."""
        fault = super().fault(caller)
        if fault:
            self._fleet.refuse(caller.identity.name, caller.identity.role, caller.serial, fault)
        return fault

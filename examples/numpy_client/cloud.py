"""A client's link to the cloud: it is registered, says that it lives, and hears what it is to do."""

import threading
from typing import Any

import grpc

from elsa.v1 import fleet_pb2
from elsa.v1.fleet_pb2_grpc import FleetServiceStub
from elsa.v1.run_pb2_grpc import RunServiceStub

CALL_S = 10.0
START_S = 60.0


class RunOverError(Exception):
    """The run has ended, or this client is no member of it any more."""


class Cloud:
    """The link of the client `name`, which offers one data set. Raises grpc.RpcError if the cloud refuses it."""

    def __init__(self, channel: grpc.Channel, name: str, dataset: str) -> None:
        self.name = name
        self.fleet = FleetServiceStub(channel)
        self.runs = RunServiceStub(channel)
        self.progress = fleet_pb2.Progress()
        self._changed = threading.Condition()
        self._assignments: dict[str, fleet_pb2.Assignment] = {}
        self._looked_at: set[str] = set()
        self._failure: grpc.RpcError | None = None
        self._stop = threading.Event()
        request = fleet_pb2.RegisterClientRequest(client_id=name, datasets=[dataset])
        self._heartbeat_s = self.fleet.RegisterClient(request, timeout=START_S, wait_for_ready=True).heartbeat_s
        self._watch: Any = self.fleet.WatchAssignment(fleet_pb2.WatchAssignmentRequest(node_id=name))
        for work in (self._listen, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def offered(self) -> fleet_pb2.Assignment:
        """The next run that this client is asked to take part in and has not looked at yet, once there is one."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or any(self._enrolling()))
            self._check()
            found = next(iter(self._enrolling()))
            self._looked_at.add(found.run_id)
            return found

    def training(self, run_id: str) -> fleet_pb2.Assignment:
        """What this client has to do with a run, once it trains. Raises RunOverError."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or not self._is_waiting(run_id))
            self._check()
            if run_id not in self._assignments:
                raise RunOverError(f"run {run_id} ended before it trained, or goes on without {self.name}")
            return self._assignments[run_id]

    def answer(self, run_id: str, **said: Any) -> None:
        """Take part with an offer (`client=`), or not (`refusal=`)."""
        request = fleet_pb2.JoinRunRequest(run_id=run_id, node_id=self.name, **said)
        self.fleet.JoinRun(request, timeout=CALL_S)

    def refuse(self, run_id: str, reason: str) -> None:
        """Take no part in a run, or not any longer. Raises grpc.RpcError if the cloud does not answer."""
        try:
            self.answer(run_id, refusal=reason[:500])
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.NOT_FOUND):
                raise  # a run that has ended needs no refusal

    def close(self) -> None:
        """Leave."""
        self._stop.set()
        self._watch.cancel()

    def _enrolling(self) -> list[fleet_pb2.Assignment]:
        every = self._assignments.values()
        asks = [assignment for assignment in every if assignment.state == fleet_pb2.RUN_STATE_ENROLLING]
        return [assignment for assignment in asks if assignment.run_id not in self._looked_at]

    def _is_waiting(self, run_id: str) -> bool:
        held = self._assignments.get(run_id)
        return held is not None and held.state != fleet_pb2.RUN_STATE_TRAINING

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _listen(self) -> None:
        try:
            for message in self._watch:
                with self._changed:
                    self._assignments = {assignment.run_id: assignment for assignment in message.assignments}
                    self._changed.notify_all()
        except grpc.RpcError as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            told = [self.progress] if self.progress.run_id else []
            try:
                self.fleet.Heartbeat(fleet_pb2.HeartbeatRequest(node_id=self.name, progress=told), timeout=CALL_S)
            except grpc.RpcError:
                continue  # the watch says what is wrong

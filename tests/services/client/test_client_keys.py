"""A client's part in its run's key: asked, it makes and wraps it; else it waits for the one wrapped for it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from elsa.errors import MalformedError, RoundGivenUpError, StaleRoundError
from elsa.privacy.keys import Key, KeyPair, Way, wrap
from elsa.v1.fleet_pb2 import KeyExchange, KeyMember, ShareKeysRequest, WrappedKey
from elsa.v1.tensor_pb2 import DType, Tensor
from elsa.wire.tensor import Layout
from services.client.keys import RunKeys

RUN, LAYOUT = "run-1", Layout(dtype=torch.float32, shape=(2, 6))
BASIS = torch.eye(6)[:2]


def no_basis():
    raise AssertionError("only who makes the key makes a basis")


class Relay:
    """A cloud that hands on as the real one does, some keys at a time."""

    def __init__(self, names, portion=10):
        self.keys = {name: RunKeys(RUN, name, self.share) for name in names}
        self.public = {name: keys.public_key for name, keys in self.keys.items()}
        self.portion = portion
        self.wrapped, self.basis, self.maker, self.requests = {}, None, names[0], []
        self._lock = threading.Lock()

    def share(self, request):
        with self._lock:
            self.requests.append(request)
            if self.basis is not None and request.client_id != self.maker:
                raise StaleRoundError(f"run has the key of {self.maker} already")
            self.maker, self.basis = request.client_id, request.basis
            for key in request.keys:
                self.wrapped.setdefault(key.to_client_id, key)
        self.announce()

    def announce(self):
        for name, keys in self.keys.items():
            keys.tell(self.told(name))

    def told(self, name):
        if name == self.maker:
            others = sorted(set(self.keys) - {name} - set(self.wrapped))[: self.portion]
            members = [KeyMember(client_id=other, public_key=self.public[other]) for other in others]
            return KeyExchange(makes=True, wanting=members)
        if name not in self.wrapped:
            return KeyExchange()
        return KeyExchange(wrapped=self.wrapped[name], basis=self.basis)

    def obtain_all(self, makers=()):
        """What every client of the run ends up with."""
        with ThreadPoolExecutor(len(self.keys)) as pool:
            make = {name: (lambda: BASIS) if name in (makers or (self.maker,)) else no_basis for name in self.keys}
            futures = {name: pool.submit(keys.obtain, LAYOUT, make[name]) for name, keys in self.keys.items()}
            self.announce()
            return {name: future.result(20) for name, future in futures.items()}


@pytest.mark.parametrize(("clients", "portion", "calls"), [(1, 10, 1), (2, 10, 1), (5, 10, 1), (5, 2, 2), (6, 2, 3)])
def test_all_clients_of_a_run_come_to_one_key(clients, portion, calls):
    relay = Relay([f"client-{number}" for number in range(clients)], portion)
    got = relay.obtain_all()
    keys = [key for key, _ in got.values()]
    assert all(key == keys[0] for key in keys)
    assert all(torch.equal(basis, BASIS) for _, basis in got.values())
    assert len(relay.requests) == calls


def test_two_runs_have_two_keys():
    (one,), (other,) = (list(Relay(["ann"]).obtain_all().values()) for _ in range(2))
    assert one[0] != other[0]


def test_a_maker_that_comes_second_takes_the_key_of_the_first():
    relay = Relay(["ann", "bob", "cyd"])
    asked = {}

    def ask_both(request):
        if request.client_id == "bob" and "ann" not in asked:  # bob is slow: ann delivers before him
            asked["ann"] = True
            relay.keys["ann"].tell(KeyExchange(makes=True, wanting=members("bob", "cyd")))
            first.result(20)
        relay.share(request)

    def members(*names):
        return [KeyMember(client_id=name, public_key=relay.public[name]) for name in names]

    relay.keys["bob"]._share = ask_both
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(relay.keys["ann"].obtain, LAYOUT, lambda: BASIS)
        second = pool.submit(relay.keys["bob"].obtain, LAYOUT, lambda: BASIS)
        third = pool.submit(relay.keys["cyd"].obtain, LAYOUT, no_basis)
        relay.keys["bob"].tell(KeyExchange(makes=True, wanting=members("ann", "cyd")))
        keys = [future.result(20)[0] for future in (first, second, third)]
    assert keys[0] == keys[1] == keys[2] and relay.maker == "ann"


def test_one_client_without_a_usable_public_key_does_not_stop_the_others():
    relay = Relay(["ann", "bob", "cyd"])
    relay.public["bob"] = bytes(32)
    relay.keys["bob"].tell = lambda exchange: None
    with ThreadPoolExecutor(2) as pool:
        made = pool.submit(relay.keys["ann"].obtain, LAYOUT, lambda: BASIS)
        waiting = pool.submit(relay.keys["cyd"].obtain, LAYOUT, no_basis)
        relay.announce()
        assert made.result(20)[0] == waiting.result(20)[0]
    assert set(relay.wrapped) == {"cyd"}


def wrapped_for(public_key, run=RUN, sender="ann", receiver="bob"):
    made = wrap(Key.random(), public_key, Way(run_id=run, sender=sender, receiver=receiver))
    return WrappedKey(
        from_client_id="ann",
        to_client_id="bob",
        public_key=made.public_key,
        nonce=made.nonce,
        ciphertext=made.ciphertext,
    )


def basis_message(values=BASIS, **fields):
    given = {"dtype": DType.DTYPE_FLOAT32, "shape": list(values.shape), "data": values.numpy().tobytes()}
    return Tensor(**{**given, **fields})


@pytest.mark.parametrize("other", [{"run": "run-2"}, {"sender": "eve"}, {"receiver": "eve"}, {"pair": True}])
def test_a_key_that_was_not_wrapped_for_us_does_not_open(other):
    keys = RunKeys(RUN, "bob", no_basis)
    public_key = KeyPair().public_key if other.pop("pair", False) else keys.public_key
    keys.tell(KeyExchange(wrapped=wrapped_for(public_key, **other), basis=basis_message()))
    with pytest.raises(MalformedError, match=r"the key from ann to bob in run run-1 does not open"):
        keys.obtain(LAYOUT, no_basis)


@pytest.mark.parametrize(
    ("basis", "words"),
    [
        (basis_message(dtype=DType.DTYPE_FLOAT16), r"keys\.basis: type 2"),
        (basis_message(shape=[3, 6]), r"keys\.basis: .*shape \[3, 6\]"),
        (basis_message(torch.eye(8)[:2]), r"keys\.basis: .*shape \[2, 8\]"),
        (basis_message(data=bytes(47)), r"keys\.basis\.data: 47 bytes; expected 48"),
        (basis_message(BASIS * 2), r"basis: its rows are off orthonormal"),
        (basis_message(BASIS * float("nan")), r"basis: its rows are off orthonormal"),
        (Tensor(), r"keys\.basis"),
    ],
)
def test_a_basis_that_does_not_fit_is_refused(basis, words):
    keys = RunKeys(RUN, "bob", no_basis)
    keys.tell(KeyExchange(wrapped=wrapped_for(keys.public_key), basis=basis))
    with pytest.raises(MalformedError, match=words):
        keys.obtain(LAYOUT, no_basis)


def test_waiting_for_a_key_ends_when_the_run_does():
    keys = RunKeys(RUN, "bob", no_basis)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(keys.obtain, LAYOUT, no_basis)
        keys.close()
        with pytest.raises(RoundGivenUpError, match="stopped while waiting for the key of run run-1"):
            waiting.result(20)


def test_neither_private_key_nor_key_leaves_a_client(caplog):
    caplog.set_level("DEBUG")
    relay = Relay(["ann", "bob"])
    got = relay.obtain_all()
    sent = b"".join(ShareKeysRequest.SerializeToString(request) for request in relay.requests)
    sent += b"".join(relay.public.values()) + caplog.text.encode() + repr(relay.keys).encode()
    privates = [keys._pair._private.private_bytes_raw() for keys in relay.keys.values()]
    assert relay.wrapped["bob"].ciphertext in sent
    for secret in [got["ann"][0].secret, *privates]:
        assert secret not in sent and secret.hex().encode() not in sent

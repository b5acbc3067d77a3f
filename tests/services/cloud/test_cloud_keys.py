"""Keys that clients share through a cloud which cannot read them."""

import base64
import io
import logging

import grpc
import numpy as np
import pytest
from cloud_harness import CLIENTS, EDGES, Clock, adapter, refused, run_async, site, spec

from elsa.privacy.keys import Key, KeyPair, Way, Wrapped, wrap
from elsa.v1 import fleet_pb2, run_pb2
from elsa.v1.tensor_pb2 import DType, Tensor
from elsa.wire.chunks import MAX_MESSAGE_BYTES
from services.cloud.fleet_servicer import assignments_to_proto
from services.cloud.keys import Basis, Exchange
from services.cloud.lifecycle import RunState
from services.cloud.records import Run
from services.cloud.watch import Assignment

TRAINING = fleet_pb2.RUN_STATE_TRAINING
FIRST, *OTHERS = CLIENTS
BLIND = {"ssop": {"rank": 2, "edge": "blind", "key": "run"}}


def basis_of(rank=2, width=8, value=0.5):
    data = np.full((rank, width), value, "<f4").tobytes()
    return Tensor(dtype=DType.DTYPE_FLOAT32, shape=[rank, width], data=data)


class Holder:
    """A client with a key pair, and in time the key of its run."""

    def __init__(self, name):
        self.name, self.pair, self.key = name, KeyPair(), None

    def wrapped(self, run, key, to, public_key):
        made = wrap(key, public_key, Way(run_id=run, sender=self.name, receiver=to))
        return fleet_pb2.WrappedKey(
            from_client_id=self.name,
            to_client_id=to,
            public_key=made.public_key,
            nonce=made.nonce,
            ciphertext=made.ciphertext,
        )

    def open(self, run, message):
        assert message.to_client_id == self.name
        made = Wrapped(public_key=message.public_key, nonce=message.nonce, ciphertext=message.ciphertext)
        return self.pair.unwrap(made, Way(run_id=run, sender=message.from_client_id, receiver=self.name))

    def request(self, run, wanting, key, basis=None):
        keys = [self.wrapped(run, key, member.client_id, member.public_key) for member in wanting]
        return fleet_pb2.ShareKeysRequest(run_id=run, client_id=self.name, keys=keys, basis=basis or basis_of())


async def join(at, run, client, public_key):
    links = [fleet_pb2.LinkReport(edge_id=edge, latency_ms=1) for edge in EDGES]
    offer = fleet_pb2.ClientOffer(train_rows=10, heldout_rows=3, links=links, public_key=public_key)
    await at.fleet.JoinRun(fleet_pb2.JoinRunRequest(run_id=run, node_id=client, client=offer))


async def enrolling(at, **parts):
    await at.register()
    run = await at.submit(spec(privacy=BLIND, **parts))
    await at.reach(run, fleet_pb2.RUN_STATE_ENROLLING)
    for edge in EDGES:
        await at.push(run, edge, adapter(), initial=True)
        await at.join(run, edge)
    return run


async def sharing(at, **parts):
    """A run that trains and shares a key, and its clients."""
    run, holders = await enrolling(at, **parts), {name: Holder(name) for name in CLIENTS}
    for name, holder in holders.items():
        await join(at, run, name, holder.pair.public_key)
    await at.reach(run, TRAINING)
    return run, holders


async def told(at, run, node, until=lambda keys: True):
    """What a node is told of the run's key, once `until` is true of it."""
    call = at.fleet.WatchAssignment(fleet_pb2.WatchAssignmentRequest(node_id=node), timeout=30)
    async for message in call:
        for assignment in message.assignments:
            if assignment.run_id == run and until(assignment.keys):
                call.cancel()
                return assignment.keys
    raise AssertionError("the watch ended")


def names(keys):
    return [member.client_id for member in keys.wanting]


@run_async
async def test_a_client_without_a_public_key_may_not_join_a_run_that_shares_one(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at)
        for wrong in (b"", bytes(31), bytes(33)):
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, f"client.public_key: {len(wrong)} bytes", "32"):
                await join(at, run, FIRST, wrong)
        await join(at, run, FIRST, KeyPair().public_key)


@pytest.mark.parametrize("privacy", [{}, {"ssop": {"edge": "keyed"}}, {"ssop": {"edge": "blind", "key": "client"}}])
def test_runs_that_share_no_key_need_no_public_keys_and_ask_for_none(tmp_path, privacy):
    @run_async
    async def test(folder):
        async with site(folder) as at:
            run = await at.started(spec(privacy=privacy))
            assert await told(at, run, FIRST) == fleet_pb2.KeyExchange()
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, f"run {run} shares no key"):
                await at.fleet.ShareKeys(Holder(FIRST).request(run, [], Key.random()))

    test(tmp_path)


@run_async
async def test_the_first_client_by_name_is_asked_and_the_others_get_what_it_wrapped(tmp_path):
    async with site(tmp_path) as at:
        run, holders = await sharing(at)
        asked, key = await told(at, run, FIRST), Key.random()
        assert asked.makes and names(asked) == OTHERS
        assert [member.public_key for member in asked.wanting] == [holders[name].pair.public_key for name in OTHERS]
        for name in OTHERS:
            assert await told(at, run, name) == fleet_pb2.KeyExchange()
        await at.fleet.ShareKeys(holders[FIRST].request(run, asked.wanting, key))
        for name in OTHERS:
            keys = await told(at, run, name, lambda keys: keys.HasField("wrapped"))
            assert holders[name].open(run, keys.wrapped) == key
            assert keys.basis == basis_of() and not keys.makes and not keys.wanting
        after = await told(at, run, FIRST)
        assert after == fleet_pb2.KeyExchange(makes=True)
        for edge in EDGES:
            assert await told(at, run, edge) == fleet_pb2.KeyExchange()


@run_async
async def test_a_client_that_joined_again_before_the_run_began_is_asked_under_its_newest_key(tmp_path):
    async with site(tmp_path) as at:
        run = await enrolling(at)
        for name in CLIENTS[:3]:
            await join(at, run, name, KeyPair().public_key)
        again = {name: KeyPair().public_key for name in OTHERS}
        for name in OTHERS:
            await join(at, run, name, again[name])
        await at.reach(run, TRAINING)
        asked = await told(at, run, FIRST)
        assert {member.client_id: member.public_key for member in asked.wanting} == again


@run_async
async def test_keys_outlive_a_cloud_that_restarts(tmp_path):
    clock = Clock()
    async with site(tmp_path, clock) as at:
        run, holders = await sharing(at)
        before = await told(at, run, FIRST)
    async with site(tmp_path, clock) as at:
        assert await told(at, run, FIRST) == before
        key = Key.random()
        await at.fleet.ShareKeys(holders[FIRST].request(run, before.wanting, key))
    async with site(tmp_path, clock) as at:
        for name in OTHERS:
            keys = await told(at, run, name)
            assert holders[name].open(run, keys.wrapped) == key and keys.basis == basis_of()


@run_async
async def test_who_delivers_first_has_made_the_key(tmp_path):
    async with site(tmp_path) as at:
        run, holders = await sharing(at)
        request = holders[FIRST].request(run, (await told(at, run, FIRST)).wanting, key := Key.random())
        await at.fleet.ShareKeys(request)
        for late in OTHERS:
            async with refused(grpc.StatusCode.FAILED_PRECONDITION, "the key of client-1 already", "wait"):
                await at.fleet.ShareKeys(holders[late].request(run, [], Key.random()))
        await at.fleet.ShareKeys(request)  # its answer may have been lost
        for name in OTHERS:
            assert holders[name].open(run, (await told(at, run, name)).wrapped) == key


@run_async
async def test_a_key_that_was_wrapped_is_not_replaced(tmp_path):
    async with site(tmp_path) as at:
        run, holders = await sharing(at)
        wanting = (await told(at, run, FIRST)).wanting
        await at.fleet.ShareKeys(holders[FIRST].request(run, wanting[:1], key := Key.random()))
        assert names(await told(at, run, FIRST)) == OTHERS[1:]
        await at.fleet.ShareKeys(holders[FIRST].request(run, wanting, Key.random()))
        assert holders["client-2"].open(run, (await told(at, run, "client-2")).wrapped) == key


@run_async
async def test_when_the_maker_leaves_before_there_is_a_key_the_next_is_asked(tmp_path):
    async with site(tmp_path) as at:
        run, holders = await sharing(at)
        await at.refuse(run, FIRST, "no memory")
        asked = await told(at, run, "client-2", lambda keys: keys.makes)
        assert names(asked) == ["client-3", "client-4"]
        await at.fleet.ShareKeys(holders["client-2"].request(run, asked.wanting, key := Key.random()))
        keys = await told(at, run, "client-4", lambda keys: keys.HasField("wrapped"))
        assert holders["client-4"].open(run, keys.wrapped) == key
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "client-1 is no client"):
            await at.fleet.ShareKeys(holders[FIRST].request(run, [], key))


@run_async
async def test_when_the_maker_falls_silent_the_next_is_asked_and_the_first_to_deliver_wins(tmp_path):
    async with site(tmp_path, heartbeat_s=1, gone_after_s=100) as at:
        run, holders = await sharing(at, rounds={"deadline_s": 100_000})
        old = await told(at, run, FIRST)
        await at.silence(FIRST, seconds=99)
        at.later(2)
        asked = await told(at, run, "client-2", lambda keys: keys.makes)
        assert names(asked) == ["client-1", "client-3", "client-4"]
        assert not (await told(at, run, FIRST)).makes
        await at.fleet.ShareKeys(holders[FIRST].request(run, old.wanting, key := Key.random()))  # it was only slow
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "the key of client-1 already"):
            await at.fleet.ShareKeys(holders["client-2"].request(run, asked.wanting, Key.random()))
        keys = await told(at, run, "client-2")
        assert not keys.makes and holders["client-2"].open(run, keys.wrapped) == key


@run_async
async def test_clients_that_the_maker_wrapped_nothing_for_leave_with_it(tmp_path):
    async with site(tmp_path) as at:
        run, holders = await sharing(at)
        wanting = (await told(at, run, FIRST)).wanting
        await at.fleet.ShareKeys(holders[FIRST].request(run, wanting[:1], Key.random()))
        await at.refuse(run, FIRST, "no memory")

        def last_left(event):
            return event.node_joined.node_id == "client-4" and not event.node_joined.accepted

        left = await at.wait(run, last_left)
        assert left.node_joined.detail.startswith("client-1, which made the run's key, was gone before")
        assert list((await at.get(run)).client_ids) == ["client-2"]
        assert (await told(at, run, "client-2")).HasField("wrapped")


@run_async
async def test_who_may_share_keys_and_when(tmp_path):
    async with site(tmp_path) as at:
        run, holders = await enrolling(at), {name: Holder(name) for name in CLIENTS}
        request = holders[FIRST].request(run, [], Key.random())
        async with refused(grpc.StatusCode.NOT_FOUND, "no run other"):
            await at.fleet.ShareKeys(holders[FIRST].request("other", [], Key.random()))
        async with refused(grpc.StatusCode.NOT_FOUND, "eve is not registered"):
            await at.fleet.ShareKeys(Holder("eve").request(run, [], Key.random()))
        async with refused(grpc.StatusCode.FAILED_PRECONDITION, "is enrolling"):
            await at.fleet.ShareKeys(request)
        for name, holder in holders.items():
            await join(at, run, name, holder.pair.public_key)
        await at.reach(run, TRAINING)
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "edge-1 is no client"):
            await at.fleet.ShareKeys(Holder("edge-1").request(run, [], Key.random()))
        await at.fleet.RegisterClient(fleet_pb2.RegisterClientRequest(client_id="eve", datasets=["trec"]))
        async with refused(grpc.StatusCode.PERMISSION_DENIED, "was not offered to eve"):
            await at.fleet.ShareKeys(Holder("eve").request(run, [], Key.random()))
        await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run))
        async with refused(grpc.StatusCode.ABORTED, "has ended"):
            await at.fleet.ShareKeys(request)


def broken_requests(good):
    """What a cloud must refuse, by the words of its answer."""

    def changed(change):
        request = fleet_pb2.ShareKeysRequest()
        request.CopyFrom(good)
        change(request)
        return request

    def one(**fields):
        return changed(lambda request: [setattr(request.keys[0], name, value) for name, value in fields.items()])

    def basis(**fields):
        return changed(lambda request: request.basis.CopyFrom(Tensor(**fields)))

    single = DType.DTYPE_FLOAT32
    return {
        "to_client_id: 'eve' is no client": one(to_client_id="eve"),
        "from 'client-2' to 'client-2'": one(from_client_id="client-2"),
        "from 'client-1' to 'client-1'": one(to_client_id=FIRST),
        "stands there twice": changed(lambda request: request.keys.append(good.keys[0])),
        "keys.public_key, its bytes: 31": one(public_key=bytes(31)),
        "keys.nonce, its bytes: 13": one(nonce=bytes(13)),
        "keys.ciphertext, its bytes: 0": one(ciphertext=b""),
        "keys.ciphertext, its bytes: 257": one(ciphertext=bytes(257)),
        "their count: 1025": changed(lambda request: request.keys.extend([good.keys[0]] * 1022)),
        "basis.dtype": basis(dtype=DType.DTYPE_FLOAT16, shape=[2, 8], data=bytes(64)),
        "basis: shape [2, 8] with 60 bytes": basis(dtype=single, shape=[2, 8], data=bytes(60)),
        "basis: shape [16] with 64 bytes": basis(dtype=single, shape=[16], data=bytes(64)),
        "basis: shape [8, 2] with 64 bytes": basis(dtype=single, shape=[8, 2], data=bytes(64)),
        "basis: shape [0, 8] with 0 bytes": basis(dtype=single, shape=[0, 8]),
        "privacy.ssop.rank is 2": changed(lambda request: request.basis.CopyFrom(basis_of(rank=3))),
        "holds NaN": changed(lambda request: request.basis.CopyFrom(basis_of(value=np.nan))),
        "between 4 and 900000": changed(lambda request: request.basis.CopyFrom(basis_of(width=112_501))),
    }


@run_async
async def test_what_is_out_of_bounds_is_refused_and_nothing_of_it_kept(tmp_path):
    async with site(tmp_path) as at:
        run, holders = await sharing(at)
        asked = await told(at, run, FIRST)
        good = holders[FIRST].request(run, asked.wanting, Key.random())
        for words, request in broken_requests(good).items():
            async with refused(grpc.StatusCode.INVALID_ARGUMENT, words):
                await at.fleet.ShareKeys(request)
        assert await told(at, run, FIRST) == asked
        await at.fleet.ShareKeys(good)
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "basis: another one than before"):
            await at.fleet.ShareKeys(holders[FIRST].request(run, [], Key.random(), basis_of(value=0.25)))


@run_async
async def test_more_clients_than_go_into_one_message_are_wanting_portion_by_portion(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.cloud.keys.MOST_WANTING", 2)
        async with site(tmp_path) as at:
            run, holders = await sharing(at)
            portions = []
            while (asked := await told(at, run, FIRST)).wanting:
                portions.append(names(asked))
                await at.fleet.ShareKeys(holders[FIRST].request(run, asked.wanting, Key(bytes(32))))
            assert portions == [OTHERS[:2], OTHERS[2:]]


def test_keys_wait_where_there_is_no_room_and_begun_runs_do_not():
    def assigned(number, state, keys=None):
        known = {"run_id": f"r-{number}", "number": number, "name": "r", "spec": "x" * 9000, "rounds": 1}
        run = Run(**known, state=state, created_unix_s=0)
        return Assignment(run=run, edges=(), client_ids=(), keys=keys)

    keys = Exchange(basis=Basis(width=1000, data=bytes(600_000)))
    given = [
        assigned(1, RunState.TRAINING, keys),
        assigned(2, RunState.TRAINING, keys),
        assigned(3, RunState.ENROLLING),
    ]
    message = assignments_to_proto("client-1", given)
    shown = [(assignment.run_id, assignment.HasField("keys")) for assignment in message.assignments]
    assert shown == [("r-1", True), ("r-2", False), ("r-3", False)]
    assert message.ByteSize() < MAX_MESSAGE_BYTES
    assert assignments_to_proto("client-1", given[1:]).assignments[0].HasField("keys")


@run_async
async def test_nothing_that_the_cloud_holds_or_says_has_the_key(tmp_path):
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        async with site(tmp_path) as at:
            run, holders = await sharing(at)
            key = Key.random()
            request = holders[FIRST].request(run, (await told(at, run, FIRST)).wanting, key)
            await at.fleet.ShareKeys(request)
            for wrong in broken_requests(request).values():
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await at.fleet.ShareKeys(wrong)
                said.write(str(caught.value))
            await at.runs.CancelRun(run_pb2.CancelRunRequest(run_id=run))
            async for event in at.events(run):
                said.write(f"{event}{event.SerializeToString()!r}")
            said.write(str(await at.get(run)))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    held = b"".join(path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file())
    held += said.getvalue().encode()
    secrets = [key.secret, *(holder.pair._private.private_bytes_raw() for holder in holders.values())]
    for secret in secrets:
        for form in (secret, secret.hex().encode(), base64.b64encode(secret), repr(secret)[2:-1].encode()):
            assert form not in held
    for wrapped in request.keys:
        assert wrapped.ciphertext in held, "what is looked through must be what was kept"

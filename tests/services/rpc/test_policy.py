"""Who may call what: every method of every service, by every role, under its own name and another's."""

import itertools

import pytest
from google.protobuf import message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from elsa.errors import PermissionDeniedError
from elsa.v1 import adapter_pb2, fleet_pb2, run_pb2, split_pb2
from services.rpc.identity import ROLES, Identity
from services.rpc.policy import CALLS, check, check_role

SERVED = {
    "cloud": [(fleet_pb2, "FleetService"), (run_pb2, "RunService"), (adapter_pb2, "AdapterService")],
    "edge": [(split_pb2, "SplitService"), (adapter_pb2, "AdapterService")],
}
OF_GRPC = [(health_pb2, "Health"), (reflection_pb2, "ServerReflection")]
LOOKS_LIKE_A_NAME = ("client_id", "node_id", "edge_id", "from_client_id")
OWN, OTHER = "mine", "another"

ALLOWED = {
    "cloud": {
        "RegisterEdge": {"edge"},
        "RegisterClient": {"client"},
        "Heartbeat": {"edge", "client"},
        "JoinRun": {"edge", "client"},
        "WatchAssignment": {"edge", "client"},
        "ShareKeys": {"client"},
        "GetProbes": {"client"},
        "UploadFingerprint": {"client"},
        "ListEdges": {"admin"},
        "SubmitRun": {"admin"},
        "GetRun": {"admin"},
        "ListRuns": {"admin"},
        "WatchRun": {"admin"},
        "CancelRun": {"admin"},
        "GetClusters": {"admin"},
        "GetProfiles": {"admin"},
        "ExportAdapter": {"admin"},
        "ReportEvaluation": {"client"},
        "PushAdapter": {"edge"},
        "PullAdapter": {"edge"},
    },
    "edge": {
        "Train": {"client"},
        "Predict": {"client"},
        "FetchBlocks": {"client"},
        "Ping": {"client"},
        "PushAdapter": {"client"},
        "PullAdapter": {"client"},
    },
}
"""Written out a second time, so that a slip in the table is seen."""
MENTIONED = {  # names of others, which a message is about
    ("cloud", "JoinRun"): {"client.links.edge_id"},
    ("cloud", "PushAdapter"): {"header.reports.client_id", "reports.reports.client_id"},
}


def methods(served):
    for module, service in served:
        for method in module.DESCRIPTOR.services_by_name[service].methods:
            yield f"/{method.containing_service.full_name}/{method.name}", method


NOT_OFFERED = {"cloud": set(), "edge": {"/grpc.health.v1.Health/Watch"}}
EVERY = [(server, name, method) for server in SERVED for name, method in methods(SERVED[server])]
EVERY_ROLE = [(*each, role) for each, role in itertools.product(EVERY, ROLES)]


def named_fields(descriptor, seen=()):
    """Paths of all fields of a message that hold a node's name, by the fields' names."""
    for field in descriptor.fields:
        if field.name in LOOKS_LIKE_A_NAME:
            yield (field,)
        elif field.message_type is not None and field.message_type.full_name not in seen:
            for rest in named_fields(field.message_type, (*seen, descriptor.full_name)):
                yield (field, *rest)


def text(path):
    return ".".join(field.name for field in path)


def put(message, path, value):
    """Set a field, in all messages on the way to it; gives the message."""
    place = message
    for field in path[:-1]:
        within = getattr(place, field.name)
        place = (within[0] if len(within) else within.add()) if field.is_repeated else within
    setattr(place, path[-1].name, value)
    return message


def request_of(method):
    return message_factory.GetMessageClass(method.input_type)()


def filled(method, name):
    """A request that names `name` wherever a caller would name itself, in the first of a stream."""
    message = request_of(method)
    for path in named_fields(method.input_type):
        if method.name != "PushAdapter" or text(path) == "header.node_id":
            put(message, path, name)
    return message


def allows(server, method, role, request, first=True):
    try:
        check(server, method, Identity(role, OWN), request, first=first)
    except PermissionDeniedError:
        return False
    return True


def test_the_table_has_all_methods_and_no_others():
    for server, calls in CALLS.items():
        assert set(calls) == {name for name, _ in methods(SERVED[server] + OF_GRPC)} - NOT_OFFERED[server]
    for server in SERVED:
        assert set(ALLOWED[server]) == {name.rpartition("/")[2] for name, _ in methods(SERVED[server])}


@pytest.mark.parametrize(("server", "name", "method", "role"), EVERY_ROLE)
def test_a_role_may_call_what_is_its_own_under_its_own_name(server, name, method, role):
    assert allows(server, name, role, filled(method, OWN)) == (role in ALLOWED[server][method.name])


@pytest.mark.parametrize(("server", "name", "method", "role"), EVERY_ROLE)
def test_no_role_may_call_anything_under_anothers_name(server, name, method, role):
    for path in named_fields(method.input_type):
        if text(path) not in MENTIONED.get((server, method.name), ()):
            request = put(filled(method, OWN), path, OTHER)
            for first in (True, False):
                assert not allows(server, name, role, request, first)


@pytest.mark.parametrize(("server", "name", "method", "role"), EVERY_ROLE)
def test_no_node_may_call_without_a_name_where_messages_have_one(server, name, method, role):
    if any(named_fields(method.input_type)):
        assert not allows(server, name, role, request_of(method))


@pytest.mark.parametrize(("server", "name", "method"), [each for each in EVERY if each[2].client_streaming])
def test_later_messages_of_a_stream_need_no_name(server, name, method):
    (role,) = ALLOWED[server][method.name]
    for field in method.input_type.fields:
        if not any(named_fields(field.message_type)):
            later = request_of(method)
            getattr(later, field.name).SetInParent()
            assert allows(server, name, role, later, first=False)
            assert not allows(server, name, role, later)


@pytest.mark.parametrize(("server", "name", "method", "role"), EVERY_ROLE)
def test_case_and_parts_of_a_name_are_not_the_name(server, name, method, role):
    for other in (OWN.upper(), OWN[:-1], f"{OWN} ", f"{OWN}\0", f"{role}/{OWN}"):
        if any(named_fields(method.input_type)):
            assert not allows(server, name, role, filled(method, other))


@pytest.mark.parametrize("server", SERVED)
@pytest.mark.parametrize("role", ROLES)
def test_a_method_that_the_table_lacks_is_refused(server, role):
    other = "edge" if server == "cloud" else "cloud"
    unknown = {"/elsa.v1.FleetService/Forget", "", "Heartbeat", *(set(CALLS[other]) - set(CALLS[server]))}
    for name in unknown:
        with pytest.raises(PermissionDeniedError):
            check_role(server, name, Identity(role, OWN))


@pytest.mark.parametrize("server", SERVED)
@pytest.mark.parametrize(("name", "method"), list(methods(OF_GRPC)))
def test_health_is_for_all_and_reflection_for_admins_but_nothing_for_a_cloud(server, name, method):
    for role in ROLES:
        allowed = name not in NOT_OFFERED[server] and (role == "admin" or (role != "cloud" and "health" in name))
        assert allows(server, name, role, request_of(method)) == allowed


def test_a_refusal_says_who_what_and_the_remedy():
    with pytest.raises(
        PermissionDeniedError, match=r"client c may not call SubmitRun: it is for admins; call as one"
    ):
        check_role("cloud", "/elsa.v1.RunService/SubmitRun", Identity("client", "c"))
    with pytest.raises(PermissionDeniedError, match=r"edge e may not call Train: .* for clients"):
        check_role("edge", "/elsa.v1.SplitService/Train", Identity("edge", "e"))
    request = fleet_pb2.HeartbeatRequest(node_id="d" * 1000)
    with pytest.raises(
        PermissionDeniedError, match=r"client c .*: node_id of Heartbeat names 'd+; give 'c'"
    ) as caught:
        check("cloud", "/elsa.v1.FleetService/Heartbeat", Identity("client", "c"), request)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_paths_of_the_table_are_fields_of_its_messages():
    for server, name, method in EVERY:
        paths = {text(path) for path in named_fields(method.input_type)}
        for role in CALLS[server][name].roles:
            names = CALLS[server][name].names(role)
            assert {path for path in (names.first, *names.every) if path} <= paths
            assert paths == {path for path in (names.first, *names.every) if path} | MENTIONED.get(
                (server, method.name), set()
            )

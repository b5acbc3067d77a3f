"""Calls a server without generated code, as grpcurl does: it asks the server by reflection what there is to call.

    python examples/reflect.py list                                          services
    python examples/reflect.py describe elsa.v1.RunService                   or a message, or an enum
    python examples/reflect.py call elsa.v1.RunService/ListRuns '{"page_size": 5}'
    python examples/reflect.py call elsa.v1.RunService/WatchRun '{"run_id": "docstrings-1"}'

Needs grpcio, grpcio-reflection and protobuf. Requests are JSON, and so are answers, a line each. ELSA_CLOUD says
where the server is (127.0.0.1:7400). Over TLS set ELSA_TLS_CA, ELSA_TLS_CERT and ELSA_TLS_KEY to the files of an
admin, and for an edge ELSA_HOST_NAME to its name, such as edge-1.edge.elsa.internal; without them it calls this
machine alone.
"""

import ipaddress
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

UNTIL_S = 3600.0
CLOUD, CLOUD_HOST = "127.0.0.1:7400", "cloud.elsa.internal"


def connect() -> grpc.Channel:
    """A channel to the server that the environment names, over TLS but to this machine."""
    address = os.environ.get("ELSA_CLOUD", CLOUD)
    files = [os.environ.get(f"ELSA_TLS_{part}") for part in ("CA", "KEY", "CERT")]
    if not any(files) and is_loopback(address):
        return grpc.insecure_channel(address)
    if not all(files):
        raise SystemExit(f"to call {address}, set all of ELSA_TLS_CA, ELSA_TLS_CERT and ELSA_TLS_KEY")
    credentials = grpc.ssl_channel_credentials(*(Path(file or "").read_bytes() for file in files))
    host = os.environ.get("ELSA_HOST_NAME", CLOUD_HOST)
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", host)])


def is_loopback(address: str) -> bool:
    """Whether it is one of this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def describe(pool: DescriptorPool, name: str) -> Iterator[str]:
    """A service, message or enum, a line a part."""
    file = pool.FindFileContainingSymbol(name)
    short = name.removeprefix(f"{file.package}.")
    known: dict[str, Any] = {**file.services_by_name, **file.message_types_by_name, **file.enum_types_by_name}
    found = known[short]
    if isinstance(found, ServiceDescriptor):
        for method in found.methods:
            asks, answers = ("stream " * streams for streams in (method.client_streaming, method.server_streaming))
            ends = f"{asks}{method.input_type.full_name}", f"{answers}{method.output_type.full_name}"
            yield f"rpc {method.name}({ends[0]}) returns ({ends[1]})"
    elif isinstance(found, EnumDescriptor):
        yield from (f"{value.name} = {value.number}" for value in found.values)
    else:
        yield from (_field(field) for field in found.fields)


def call(channel: grpc.Channel, pool: DescriptorPool, path: str, text: str) -> Iterator[str]:
    """The answers of a call whose request is one message, as JSON. Raises grpc.RpcError."""
    service, _, name = path.rpartition("/")
    method = pool.FindServiceByName(service).FindMethodByName(name)
    if method.client_streaming:
        raise SystemExit(f"{name} takes a stream of requests; this script sends one")
    request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    asked = kind(f"/{path}", request.SerializeToString, response.FromString)
    answer = asked(json_format.Parse(text, request(), descriptor_pool=pool), timeout=UNTIL_S)
    for message in answer if method.server_streaming else [answer]:
        yield json_format.MessageToJson(message, indent=None, preserving_proto_field_name=True, descriptor_pool=pool)


def _field(field: Any) -> str:
    other = field.message_type or field.enum_type
    kind = other.full_name if other else FieldDescriptorProto.Type.Name(field.type)[len("TYPE_") :].lower()
    return f"{'repeated ' if field.is_repeated else ''}{kind} {field.name} = {field.number}"


def told(error: grpc.RpcError) -> str:
    """What a call failed with, and what to look at."""
    said = f"{error.code().name}: {error.details()}"
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return said
    address, host = os.environ.get("ELSA_CLOUD", CLOUD), os.environ.get("ELSA_HOST_NAME", CLOUD_HOST)
    return f"{said}; check that a server answers at {address} (ELSA_CLOUD), over TLS as {host} (ELSA_HOST_NAME)"


def main(what: str, name: str = "", text: str = "{}") -> int:
    """List, describe or call. The exit code."""
    with connect() as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        try:
            if what == "list":
                lines: Iterator[str] = iter(sorted(database.get_services()))
            else:
                lines = describe(pool, name) if what == "describe" else call(channel, pool, name, text)
            for line in lines:
                sys.stdout.write(f"{line}\n")
        except grpc.RpcError as error:
            sys.stderr.write(f"{told(error)}\n")
            return 1
        except json_format.ParseError as error:
            sys.stderr.write(f"the request is not JSON of its message: {error}\n")
            return 1
        except KeyError as error:
            sys.stderr.write(f"there is none of that name: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] not in (["list"], ["describe"], ["call"]) or len(sys.argv) > 5:
        sys.exit(__doc__)
    try:
        sys.exit(main(*sys.argv[1:]))
    except OSError as error:
        sys.exit(f"{error}; check ELSA_TLS_CA, ELSA_TLS_CERT and ELSA_TLS_KEY")

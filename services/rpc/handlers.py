"""gRPC's method handlers with another function in them: what every interceptor of ours makes."""

from collections.abc import Callable
from typing import Any

import grpc

Handler = Any  # grpc.RpcMethodHandler: its typed form fits neither of the two servers
Behavior = Callable[..., Any]


def behavior_of(handler: Handler) -> Behavior:
    """The function that serves a handler's calls."""
    behavior: Behavior = getattr(handler, _KINDS[handler.request_streaming, handler.response_streaming][0])
    return behavior


def with_behavior(
    handler: Handler,
    behavior: Behavior,
    deserializer: Callable[[bytes], Any] | None = None,
    serializer: Callable[[Any], bytes] | None = None,
) -> Handler:
    """`handler` with `behavior` as its function, and with what reads and writes its messages where that is given."""
    _, make = _KINDS[handler.request_streaming, handler.response_streaming]
    return make(
        behavior,
        request_deserializer=deserializer or handler.request_deserializer,
        response_serializer=serializer or handler.response_serializer,
    )


def begun_before_requests(handler: Handler) -> Handler:
    """`handler` as one whose function is given an iterator of the requests, as soon as a call begins."""
    make = _KINDS[True, handler.response_streaming][1]
    return make(
        behavior_of(handler),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


_KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., Handler]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}

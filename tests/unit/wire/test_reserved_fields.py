"""A field that had another meaning is not read as what took its place."""

import struct

from elsa.v1 import fleet_pb2


def test_the_throughput_of_older_clients_is_no_rate_of_a_direction():
    older = fleet_pb2.LinkReport(edge_id="edge-1", latency_ms=2).SerializeToString()
    older += bytes([3 << 3 | 1]) + struct.pack("<d", 5e6)  # double throughput = 3
    link = fleet_pb2.LinkReport.FromString(older)
    assert (link.edge_id, link.up_bytes_per_s, link.down_bytes_per_s) == ("edge-1", 0, 0)

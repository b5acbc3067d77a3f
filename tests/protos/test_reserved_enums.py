"""A reserved range of an enum counts to its end: descriptors name its last number, those of messages the next."""

import versions
from google.protobuf.descriptor_pb2 import FileDescriptorProto


def test_each_number_of_a_reserved_range_of_an_enum_is_reserved_and_no_other():
    file = FileDescriptorProto(package="p")
    enum = file.enum_type.add(name="E")
    enum.value.add(name="E_UNSPECIFIED", number=0)
    enum.reserved_range.add(start=2, end=2)
    enum.reserved_range.add(start=5, end=6)
    said = [thing for thing in versions.facts([file]) if " reserves " in thing]
    assert said == ["p.E reserves 2", "p.E reserves 5", "p.E reserves 6"]

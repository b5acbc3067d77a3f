"""The API only grows: every kind of break with a release is found, and nothing else is called one."""

from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from hypothesis import given
from hypothesis import strategies as st
from versions import breaks, current, facts, main, modules, read, release, written

from elsa.v1 import adapter_pb2, fleet_pb2, run_pb2, split_pb2, tensor_pb2

MODULES = (tensor_pb2, split_pb2, adapter_pb2, fleet_pb2, run_pb2)
NEW = 4000
NOW = current()
PROTOS = Path(__file__).parents[2] / "protos"
RELEASES = sorted((PROTOS / "released").glob("*.txt"))


def files():
    """The API as it is, to be altered."""
    made = []
    for module in MODULES:
        made.append(FileDescriptorProto())
        module.DESCRIPTOR.CopyToProto(made[-1])
    return made


def altered(draw, wanted, alter):
    """What an API breaks in which one of the things that `wanted` picks was altered."""
    made = files()
    things = [thing for file in made for thing in wanted(file)]
    alter(draw(st.sampled_from(things)))
    return breaks(NOW, facts(made))


def messages(file):
    return list(file.message_type)


def fields(file):
    return [(message, field) for message in file.message_type for field in message.field]


def in_oneofs(file):
    return [pair for pair in fields(file) if pair[1].HasField("oneof_index") and not pair[1].proto3_optional]


def enum_values(file):
    return [(enum, value) for enum in file.enum_type for value in enum.value]


def methods(file):
    return [(service, method) for service in file.service for method in service.method]


def without(owner, field):
    owner.field.remove(field)


def reserved(owner, field, *, number=True, name=True):
    if number:
        owner.reserved_range.add(start=field.number, end=field.number + 1)
    if name:
        owner.reserved_name.append(field.name)
    owner.field.remove(field)


def set_type(owner, field):
    other = FieldDescriptorProto.TYPE_SINT64
    field.type, field.type_name = other, ""


def set_repeated(owner, field):
    both = (FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED)
    field.label, field.proto3_optional = both[field.label != both[1]], False


def set_oneof(owner, field):
    """Into a oneof of its own, or out of the one that it is in."""
    if field.HasField("oneof_index") and not field.proto3_optional:
        field.ClearField("oneof_index")
    else:
        owner.oneof_decl.add(name="moved")
        field.oneof_index, field.proto3_optional = len(owner.oneof_decl) - 1, False


def set_optional(owner, field):
    field.proto3_optional = not field.proto3_optional
    if field.proto3_optional:
        owner.oneof_decl.add(name=f"_{field.name}")
        field.oneof_index = len(owner.oneof_decl) - 1
    else:
        field.ClearField("oneof_index")


FIELD_BREAKS = {
    "removed": without,
    "removed, its number alone reserved": lambda owner, field: reserved(owner, field, name=False),
    "removed, its name alone reserved": lambda owner, field: reserved(owner, field, number=False),
    "renumbered": lambda owner, field: setattr(field, "number", NEW),
    "renamed": lambda owner, field: setattr(field, "name", f"{field.name}_2"),
    "of another type": set_type,
    "repeated or not": set_repeated,
    "in a oneof or not": set_oneof,
}
METHOD_BREAKS = {
    "removed": lambda owner, method: owner.method.remove(method),
    "renamed": lambda owner, method: setattr(method, "name", f"{method.name}2"),
    "of another request": lambda owner, method: setattr(method, "input_type", ".elsa.v1.Chunk"),
    "of another response": lambda owner, method: setattr(method, "output_type", ".elsa.v1.Chunk"),
    "with other requests": lambda _, method: setattr(method, "client_streaming", not method.client_streaming),
    "with other responses": lambda _, method: setattr(method, "server_streaming", not method.server_streaming),
}
VALUE_BREAKS = {
    "removed": lambda owner, value: owner.value.remove(value),
    "renumbered": lambda owner, value: setattr(value, "number", NEW),
    "renamed": lambda owner, value: setattr(value, "name", f"{value.name}_2"),
}


@pytest.mark.parametrize("kind", FIELD_BREAKS)
@given(data=st.data())
def test_a_field_that_changed_is_a_break(kind, data):
    assert altered(data.draw, fields, lambda pair: FIELD_BREAKS[kind](*pair))


@given(data=st.data())
def test_a_field_that_can_be_unset_or_can_no_more_is_a_break(data):
    def single(file):
        return [
            pair
            for pair in fields(file)
            if pair not in in_oneofs(file) and pair[1].label != FieldDescriptorProto.LABEL_REPEATED
        ]

    assert altered(data.draw, single, lambda pair: set_optional(*pair))


@given(data=st.data())
def test_a_field_that_moved_to_another_oneof_is_a_break(data):
    def move(pair):
        owner, field = pair
        owner.oneof_decl.add(name="moved")
        field.oneof_index = len(owner.oneof_decl) - 1

    assert altered(data.draw, in_oneofs, move)


@pytest.mark.parametrize("kind", METHOD_BREAKS)
@given(data=st.data())
def test_a_method_that_changed_is_a_break(kind, data):
    assert altered(data.draw, methods, lambda pair: METHOD_BREAKS[kind](*pair))


@pytest.mark.parametrize("kind", VALUE_BREAKS)
@given(data=st.data())
def test_an_enum_value_that_changed_is_a_break(kind, data):
    assert altered(data.draw, enum_values, lambda pair: VALUE_BREAKS[kind](*pair))


@given(data=st.data())
def test_a_message_or_service_or_package_of_another_name_is_a_break(data):
    def rename(thing):
        thing.name += "2"

    assert altered(data.draw, lambda file: [*file.message_type, *file.service, *file.enum_type], rename)
    assert altered(data.draw, lambda file: [file], lambda file: setattr(file, "package", "elsa.v2"))


def test_what_was_reserved_stays_reserved():
    made = files()
    (owner,) = [message for file in made for message in file.message_type if message.name == "LinkReport"]
    owner.ClearField("reserved_range")
    owner.ClearField("reserved_name")
    owner.field.add(name="throughput", number=3, type=FieldDescriptorProto.TYPE_DOUBLE)
    assert len(breaks(NOW, facts(made))) == 2


@given(data=st.data())
def test_a_field_may_go_where_its_number_and_name_are_reserved(data):
    assert not altered(data.draw, fields, lambda pair: reserved(*pair))


@given(data=st.data())
def test_additions_are_no_break(data):
    """A field, one more of a oneof, an enum value, a method, a message, a service."""
    string = FieldDescriptorProto.TYPE_STRING
    assert not altered(data.draw, messages, lambda owner: owner.field.add(name="new", number=NEW, type=string))
    assert not altered(
        data.draw,
        in_oneofs,
        lambda pair: pair[0].field.add(name="new", number=NEW, type=string, oneof_index=pair[1].oneof_index),
    )
    assert not altered(data.draw, enum_values, lambda pair: pair[0].value.add(name="NEW", number=NEW))
    assert not altered(
        data.draw,
        lambda file: file.service,
        lambda owner: owner.method.add(name="New", input_type=".elsa.v1.Chunk", output_type=".elsa.v1.Chunk"),
    )
    assert not altered(data.draw, lambda file: [file], lambda file: file.message_type.add(name="New"))
    assert not altered(data.draw, lambda file: [file], lambda file: file.service.add(name="NewService"))


def test_the_order_of_what_is_declared_is_none_of_the_apis():
    made = files()
    for file in made:
        file.message_type.sort(key=lambda message: message.name)
    assert not breaks(NOW, facts(reversed(made)))


def test_facts_of_nested_messages_and_enums_count():
    file = FileDescriptorProto(package="p", message_type=[DescriptorProto(name="Outer")])
    inner = file.message_type[0].nested_type.add(name="Inner")
    inner.field.add(name="one", number=1, type=FieldDescriptorProto.TYPE_STRING)
    file.message_type[0].enum_type.add(name="Kind").value.add(name="KIND_UNSPECIFIED", number=0)
    assert {"p.Outer.Inner #1", "p.Outer.Kind #0"} <= facts([file]).keys()


def test_a_release_is_read_as_it_was_written():
    assert read(written("9.9.9", NOW)) == NOW


def test_a_release_is_written_once_and_never_altered(tmp_path):
    assert release(tmp_path, "9.9.9", NOW) == ""
    before = (tmp_path / "9.9.9.txt").read_text()
    assert read(before) == NOW
    assert release(tmp_path, "9.9.9", NOW) == ""
    assert release(tmp_path, "9.9.9", dict(reversed(NOW.items()))) == ""  # in another order
    assert (tmp_path / "9.9.9.txt").read_text() == before
    more = {**NOW, "elsa.v1.New": "message"}  # which is no break
    assert "9.9.9.txt is there and says something else" in release(tmp_path, "9.9.9", more)
    assert (tmp_path / "9.9.9.txt").read_text() == before
    assert release(tmp_path, "9.9.10", more) == ""


def test_a_list_that_says_something_else_ends_the_command(tmp_path, capsys):
    assert main(["release"], tmp_path) == 0
    (path,) = tmp_path.iterdir()
    *kept, _ = path.read_text().splitlines(keepends=True)
    path.write_text("".join(kept))
    assert main([], tmp_path) == 0
    assert main(["release"], tmp_path) == 1
    assert "raise the version" in capsys.readouterr().err
    assert path.read_text() == "".join(kept)


def test_every_proto_is_held():
    files = sorted(path.stem for path in (PROTOS / "elsa" / "v1").glob("*.proto"))
    assert modules() == [f"elsa.v1.{name}_pb2" for name in files]


def test_a_proto_that_is_new_is_held(tmp_path, monkeypatch):
    module = "from elsa.v1 import tensor_pb2\n\nDESCRIPTOR = tensor_pb2.DESCRIPTOR\n"
    (tmp_path / "later_pb2.py").write_text(module)
    (tmp_path / "later_pb2_grpc.py").write_text("")
    monkeypatch.setattr("elsa.v1.__path__", [str(tmp_path)])
    assert modules() == ["elsa.v1.later_pb2"]
    assert current().keys() == {thing for thing in NOW if thing in facts(files()[:1])}


def test_what_is_asked_for_otherwise_is_refused_and_does_nothing(tmp_path, capsys):
    assert main(["relase"], tmp_path) == main(["release", "now"], tmp_path) == 2
    assert "usage" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_there_is_a_release():
    assert RELEASES


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
def test_the_api_breaks_with_no_release(release):
    assert breaks(read(release.read_text()), NOW) == []
    assert main([]) == 0

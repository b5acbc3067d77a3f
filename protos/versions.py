"""Holds the API against what was released: `elsa.v1` only grows.

    python protos/versions.py            says what would break callers of a release; exits with 1 if something would
    python protos/versions.py release    writes protos/released/VERSION.txt, the API as it is now; exits with 1 if one
                                         is there that says something else, which stays

A released API is a file of facts, one a line, that people and diffs can read: each field with its number, type, label
and oneof, each enum value, each method with its types and streams, each reserved number and name. A later API must
have all of these facts, but that a field or enum value may go where its number and its name are reserved.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import iter_modules

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
)

RELEASED = Path(__file__).parent / "released"
Facts = Mapping[str, str]
"""What is said of each thing, by the thing: `{"elsa.v1.Chunk #1": "uint64 offset"}`."""


def facts(files: Iterable[FileDescriptorProto]) -> dict[str, str]:
    """All facts of an API, in the order of its files."""
    return dict(fact for file in files for fact in _of_file(file))


def breaks(released: Facts, current: Facts) -> list[str]:
    """What of `current` breaks who was built against `released`, a line each; nothing where it only grew."""
    found = []
    for thing, said in released.items():
        now = current.get(thing)
        if now is None and not _may_go(thing, said, current):
            found.append(f"{thing}: {said} is gone{_remedy(thing)}")
        elif now is not None and now != said:
            found.append(f"{thing}: was {said}, is {now}")
    return found


def current() -> dict[str, str]:
    """The facts of the API as it is."""
    files = []
    for name in modules():
        files.append(FileDescriptorProto())
        import_module(name).DESCRIPTOR.CopyToProto(files[-1])
    return facts(files)


def modules() -> list[str]:
    """The generated modules of all protos, in the order of their names."""
    import elsa.v1

    found = (module.name for module in iter_modules(elsa.v1.__path__, "elsa.v1."))
    return sorted(name for name in found if name.endswith("_pb2"))


def read(text: str) -> dict[str, str]:
    """The facts in the file of a release."""
    lines = (line for line in text.splitlines() if line and not line.startswith("//"))
    return dict(line.split(": ", 1) for line in lines)


def _may_go(thing: str, said: str, current: Facts) -> bool:
    """Whether a field or enum value was taken away as it must be: by reserving its number and its name."""
    owner, _, number = thing.partition(" #")
    if not number:
        return False
    words = [word for word in said.split(" in ")[0].split() if word]
    return f"{owner} reserves {number}" in current and f"{owner} reserves {words[-1]}" in current


def _remedy(thing: str) -> str:
    return "; reserve its number and its name" if " #" in thing else ""


def _of_file(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for message in file.message_type:
        yield from _of_message(message, file.package)
    for enum in file.enum_type:
        yield from _of_enum(enum, file.package)
    for service in file.service:
        yield f"{file.package}.{service.name}", "service"
        for method in service.method:
            yield f"{file.package}.{service.name}.{method.name}", _signature(method)


def _of_message(message: DescriptorProto, within: str) -> Iterator[tuple[str, str]]:
    name = f"{within}.{message.name}"
    yield name, "message"
    for field in message.field:
        yield f"{name} #{field.number}", _field(field, message)
    for reserved in message.reserved_range:
        for number in range(reserved.start, reserved.end):
            yield f"{name} reserves {number}", "number"
    for word in message.reserved_name:
        yield f"{name} reserves {word}", "name"
    for inner in message.nested_type:
        yield from _of_message(inner, name)
    for enum in message.enum_type:
        yield from _of_enum(enum, name)


def _of_enum(enum: EnumDescriptorProto, within: str) -> Iterator[tuple[str, str]]:
    name = f"{within}.{enum.name}"
    yield name, "enum"
    for value in enum.value:
        yield f"{name} #{value.number}", value.name
    for reserved in enum.reserved_range:
        for number in range(reserved.start, reserved.end + 1):
            yield f"{name} reserves {number}", "number"
    for word in enum.reserved_name:
        yield f"{name} reserves {word}", "name"


def _field(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """`optional uint32 cluster`, or `elsa.v1.Chunk chunk in oneof message`."""
    label = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    label = "optional " if field.proto3_optional else label
    kind = field.type_name.lstrip(".") or FieldDescriptorProto.Type.Name(field.type)[len("TYPE_") :].lower()
    within = ""
    if field.HasField("oneof_index") and not field.proto3_optional:
        within = f" in oneof {message.oneof_decl[field.oneof_index].name}"
    return f"{label}{kind} {field.name}{within}"


def _signature(method: MethodDescriptorProto) -> str:
    ways = ((method.client_streaming, method.input_type), (method.server_streaming, method.output_type))
    return " -> ".join(("stream " if streams else "") + kind.lstrip(".") for streams, kind in ways)


def written(release: str, said: Facts) -> str:
    """The file of a release, which `read` takes."""
    head = f"// The API of version {release}; written by make release-protos, never by hand."
    return "\n".join([head, *(f"{thing}: {what}" for thing, what in said.items())]) + "\n"


def release(folder: Path, number: str, said: Facts) -> str:
    """Write a release down. Returns why that cannot be; empty if its list says this now."""
    path = folder / f"{number}.txt"
    if not path.exists():
        path.write_text(written(number, said))
    elif read(path.read_text()) != said:
        return f"{path.name} is there and says something else; what was released stays: raise the version"
    return ""


def main(arguments: list[str], folder: Path = RELEASED) -> int:
    """Check, or with `release` write. The exit code."""
    if arguments not in ([], ["release"]):
        sys.stderr.write("usage: python protos/versions.py [release]\n")
        return 2
    releases = {path.stem: read(path.read_text()) for path in sorted(folder.glob("*.txt"))}
    found = [f"breaks {release}: {line}" for release, said in releases.items() for line in breaks(said, current())]
    if arguments and not found and (fault := release(folder, version("elsa"), current())):
        found = [fault]
    for line in found:
        sys.stderr.write(f"{line}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

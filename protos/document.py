"""Writes docs/api.md: the introduction in api.in.md, then services, messages and enums as the protos' comments say.

python protos/document.py            writes it
python protos/document.py --check    exits with 1 if it is not as it would be written
"""

import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import grpc
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

from services.rpc.channel import IDEMPOTENT
from services.rpc.introduction import TIME_KEY, VERSION_KEY
from services.rpc.policy import CALLS, Names, Rule, Server
from services.rpc.status import NAME_KEY, TABLE

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "api.md"
FILES = ("run", "fleet", "split", "adapter", "tensor")
"""In the order in which people read them."""
CODES = re.compile(rf"\b({'|'.join(code.name for code in grpc.StatusCode)})\b")
ALSO = re.compile(r"Codes:? as for (\w+)")
MESSAGE, ENUM, SERVICE, FIELD, VALUE, METHOD, SYNTAX = 4, 5, 6, 2, 2, 2, 12
"""Fields of descriptors, of which the places of comments are made."""


class Described:
    """A proto file with its comments."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self.file = file
        self._comments = {tuple(each.path): each for each in file.source_code_info.location}

    def comment(self, *path: int) -> str:
        """What stands before the thing at a place, as Markdown on one line a paragraph; empty if nothing does."""
        found = self._comments.get(path)
        paragraphs = (found.leading_comments if found else "").strip().split("\n\n")
        return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

    @property
    def opening(self) -> str:
        """What the file says of itself."""
        return self.comment(SYNTAX)


def described() -> dict[str, Described]:
    """The files by their short names, in the order of `FILES`."""
    import grpc_tools

    own = Path(str(grpc_tools.__file__)).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        sources = [str(path) for path in sorted((HERE / "elsa" / "v1").glob("*.proto"))]
        flags = [f"-I{HERE}", f"-I{own}", f"--descriptor_set_out={out}", "--include_source_info"]
        if protoc.main(["protoc", *flags, *sources]):
            raise SystemExit("the protos cannot be read")
        files = FileDescriptorSet.FromString(out.read_bytes()).file
    found = {Path(file.name).stem: Described(file) for file in files}
    if found.keys() != set(FILES):
        raise SystemExit(f"name every file in FILES: there are {', '.join(sorted(found))}")
    return {name: found[name] for name in FILES}


def page(files: Sequence[Described]) -> str:
    """The whole page."""
    text = (HERE / "api.in.md").read_text()
    for name, value in (
        ("idempotent", idempotent()),
        ("name_key", NAME_KEY),
        ("version_key", VERSION_KEY),
        ("time_key", TIME_KEY),
        ("errors", errors()),
        ("services", "\n".join(line for file in files for line in services(file)).rstrip()),
        ("messages", "\n".join(line for file in files for line in messages(file)).rstrip()),
    ):
        text = text.replace(f"{{{{{name}}}}}", value)
    return text


def idempotent() -> str:
    """The unary calls that may be made twice."""
    names = (f"`{method}`" for methods in IDEMPOTENT.values() for method in methods)
    return ", ".join(names)


def errors() -> str:
    """The table of codes, each with the kinds that it may be."""
    rows = ["| code | `elsa-error` | means |", "|---|---|---|"]
    for error, code in TABLE:
        means = (error.__doc__ or "").strip().split("\n")[0]
        if code is not grpc.StatusCode.INTERNAL:
            rows.append(f"| {code.name} | {error.__name__} | {means} |")
    rows.append("| INTERNAL | any other | A fault of the server; its log says which, the text does not. |")
    return "\n".join(rows)


def services(file: Described) -> Iterator[str]:
    """The sections of a file's services."""
    for place, service in enumerate(file.file.service):
        servers = [s for s, calls in CALLS.items() if any(f".{service.name}/" in method for method in calls)]
        yield from (f"## {service.name}", "", file.comment(SERVICE, place), "", file.opening, "")
        yield "| call | request | response | errors | " + " | ".join(f"who may call {_at(s)}" for s in servers) + " |"
        yield "|---" * (4 + len(servers)) + "|"
        yield from (
            _row(file, service, method, place, number, servers) for number, method in enumerate(service.method)
        )
        yield ""
        for number, method in enumerate(service.method):
            yield from (f"**{method.name}.** {file.comment(SERVICE, place, METHOD, number)}", "")


def messages(file: Described) -> Iterator[str]:
    """The sections of a file's messages and enums."""
    yield from (f"### {file.file.name}", "")
    if not file.file.service:
        yield from (file.opening, "")
    for place, message in enumerate(file.file.message_type):
        yield from _message(file, message, place)
    for place, enum in enumerate(file.file.enum_type):
        yield from _enum(file, enum, place)


def _row(
    file: Described,
    service: ServiceDescriptorProto,
    method: MethodDescriptorProto,
    place: int,
    number: int,
    servers: Iterable[Server],
) -> str:
    path = f"/{file.file.package}.{service.name}/{method.name}"
    cells = [
        method.name,
        ("stream of " if method.client_streaming else "") + _linked(method.input_type),
        ("stream of " if method.server_streaming else "") + _linked(method.output_type),
        ", ".join(_codes(file, service, place, number)),
        *(_callers(CALLS[server].get(path)) for server in servers),
    ]
    return f"| {' | '.join(cells)} |"


def _codes(file: Described, service: ServiceDescriptorProto, place: int, number: int) -> list[str]:
    """The codes that a method's comment names, with those of another to which it points: `as for Train`."""
    text = file.comment(SERVICE, place, METHOD, number)
    names = [method.name for method in service.method]
    codes = [code for name in ALSO.findall(text) for code in _codes(file, service, place, names.index(name))]
    return list(dict.fromkeys([*codes, *CODES.findall(text)]))


def _callers(rule: Rule | None) -> str:
    """`edge (node_id), client (node_id)`."""
    return ", ".join(f"{role}{_named(rule.names(role) or Names())}" for role in rule.roles) if rule else "nobody"


def _named(names: Names) -> str:
    fields = ", ".join(f"`{field}`" for field in (names.first, *names.every) if field)
    return f" ({fields})" if fields else ""


def _message(file: Described, message: DescriptorProto, place: int) -> Iterator[str]:
    yield from (f"#### {message.name}", "", file.comment(MESSAGE, place), "")
    if message.field:
        yield from ("| # | field | type | contract |", "|---|---|---|---|")
    for number, field in sorted(enumerate(message.field), key=lambda pair: pair[1].number):
        contract = _cell(file.comment(MESSAGE, place, FIELD, number))
        yield f"| {field.number} | `{field.name}` | {_type(message, field)} | {contract} |"
    reserved = [str(n) for each in message.reserved_range for n in range(each.start, each.end)]
    if reserved:
        names = ", ".join(f"`{name}`" for name in message.reserved_name)
        yield from ("", f"Reserved: {', '.join(reserved)}; {names}.")
    yield ""


def _enum(file: Described, enum: EnumDescriptorProto, place: int) -> Iterator[str]:
    yield from (f"#### {enum.name}", "", file.comment(ENUM, place), "", "| # | value | means |", "|---|---|---|")
    for number, value in enumerate(enum.value):
        yield f"| {value.number} | `{value.name}` | {_cell(file.comment(ENUM, place, VALUE, number))} |"
    yield ""


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    kind = FieldDescriptorProto.Type.Name(field.type)[len("TYPE_") :].lower()
    shown = _linked(field.type_name) if field.type_name else kind
    if field.proto3_optional:
        return f"optional {shown}"
    if field.HasField("oneof_index"):
        return f"{shown}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return f"repeated {shown}" if field.label == FieldDescriptorProto.LABEL_REPEATED else shown


def _linked(full_name: str) -> str:
    name = full_name.rpartition(".")[2]
    return f"[{name}](#{name.lower()})"


def _cell(text: str) -> str:
    return text.replace("\n\n", " ").replace("|", "\\|")


def _at(server: str) -> str:
    return f"at {'the cloud' if server == 'cloud' else 'an edge'}"


def main(arguments: list[str]) -> int:
    """Write, or with --check compare. The exit code."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python protos/document.py [--check]\n")
        return 2
    text = page(list(described().values()))
    if not arguments:
        PAGE.write_text(text)
        return 0
    if not PAGE.exists() or PAGE.read_text() != text:
        sys.stderr.write("docs/api.md is not what the protos say; make protos writes it\n")
        return 1
    sys.stdout.write("docs/api.md is up to date\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

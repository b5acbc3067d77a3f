"""Flags made from a role's settings: each field is a flag, its description the help, so nothing is written twice.

What a flag says wins over the environment, that over the file, that over the defaults.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, SettingsError

from elsa.errors import SpecError
from elsa.parsing import Model, has_password, parse

CONFIG_HELP = "YAML file with any of these settings, by their names with underscores"
UNNAMED = "default"
SOURCE = "[NAME=]SOURCE"
"""How an item of a mapping is written, where its field does not say otherwise."""
_METAVARS = {"int": "INTEGER", "float": "NUMBER", "Path": "PATH"}


def with_flags(settings: type[BaseModel], work: Callable[[Mapping[str, Any], Path | None], None]) -> Any:
    """A function for typer with a flag for every field of `settings`; it calls `work` with those given."""

    def command(**flags: Any) -> None:
        config = flags.pop("config")
        work({name: value for name, value in flags.items() if value not in (None, [])}, config)

    fields = settings.model_fields
    ordered = sorted(fields, key=lambda name: name not in settings.__annotations__)  # what roles share comes last
    parameters = [_flag(name, fields[name]) for name in ordered]
    kind = Annotated[Path | None, typer.Option("--config", metavar="FILE.yaml", help=CONFIG_HELP)]
    parameters.append(_parameter("config", kind))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def merged(settings: type[Model], flags: Mapping[str, Any], config: Path | None, role: str) -> Model:
    """The settings of a role from its flags, the environment, the file and the defaults.

    Raises:
        SpecError: one line that names the field and what is wrong with it.
    """
    origin = f"settings of the {role}"
    try:
        environment = EnvSettingsSource(settings)()  # type: ignore[arg-type]
    except SettingsError as error:
        raise SpecError(f"{origin}: {error}; write ELSA_DATA as JSON, or use flags") from error
    _check_no_password(flags)
    named = {
        name: _pairs(name, value, _metavar(settings.model_fields[name])) if isinstance(value, list) else value
        for name, value in flags.items()
    }
    return parse(settings, {**from_file(config), **environment, **named}, origin)


def _check_no_password(flags: Mapping[str, Any]) -> None:
    """Raise SpecError for a URL with a password in it: everybody on the machine may read the flags of a process."""
    for name, value in flags.items():
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, str) and has_password(item) for item in items):
            raise SpecError(
                f"--{name.replace('_', '-')}: has a password in it, and others on this machine can read flags; "
                f"give it by the environment (ELSA_{name.upper()}) or in the file of --config"
            )


def from_file(path: Path | None) -> dict[str, Any]:
    """The settings in the file of --config; none without a file. Raises SpecError."""
    if path is None:
        return {}
    raw = yaml_mapping(path, "--config")
    return {name.replace("-", "_"): value for name, value in raw.items()}


def yaml_mapping(path: Path, flag: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises SpecError naming the file and the flag."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SpecError(f"{flag} {path}: cannot be read ({reason}); give an existing YAML file") from error
    except yaml.YAMLError as error:
        raise SpecError(f"{flag} {path}: not YAML: {' '.join(str(error).split())}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(name, str) for name in raw):
        raise SpecError(f"{flag} {path}: must hold names and values, as in 'port: 7400'")
    return raw


def _pairs(setting: str, items: Sequence[str], metavar: str) -> dict[str, str]:
    """NAME=SOURCE items as a mapping; where `metavar` allows a SOURCE alone, it is the one named 'default'."""
    flag, pairs = setting.replace("_", "-"), dict[str, str]()
    for item in items:
        name, separator, source = item.partition("=")
        if not separator and metavar == SOURCE:
            name, source = UNNAMED, item
        if not source:
            raise SpecError(f"--{flag} {item}: names no {_second(metavar)}; write --{flag} {metavar}")
        if name in pairs:
            raise SpecError(f"--{flag} {item}: {name!r} is given twice; give every name one {_second(metavar)}")
        pairs[name] = source
    return pairs


def _metavar(field: FieldInfo, default: str = SOURCE) -> str:
    """How a value is written, or an item of a mapping."""
    extra = field.json_schema_extra
    return str(extra["metavar"]) if isinstance(extra, dict) and "metavar" in extra else default


def _second(metavar: str) -> str:
    return metavar.rpartition("=")[2].removeprefix("]").lower()


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    kind, dashed = field.annotation, name.replace("_", "-")
    said = field.description or name.replace("_", " ")
    text = f"{_sentence(said)}{_default(field.default)}"
    if kind is bool:
        option = typer.Option(f"--{dashed}/--no-{dashed}", help=text, show_default=False)
        return _parameter(name, Annotated[bool | None, option])
    if _is_mapping(kind):
        option = typer.Option(
            f"--{dashed}", help=f"{text}; may be repeated", metavar=_metavar(field), show_default=False
        )
        return _parameter(name, Annotated[list[str] | None, option])
    metavar = _metavar(field, next((shown for word, shown in _METAVARS.items() if word in str(kind)), "TEXT"))
    option = typer.Option(f"--{dashed}", help=text, metavar=metavar, show_default=False)
    return _parameter(name, Annotated[str | None, option])


def _sentence(said: str) -> str:
    """`said` with a capital, unless it begins with something to be typed as it stands, such as host:port."""
    plain = said.split()[0].rstrip(",;:").isalpha()
    return f"{said[0].upper()}{said[1:]}" if plain else said


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _default(value: Any) -> str:
    return "" if value is False or value in (None, "", {}, ()) else f" (default: {value})"

"""The specification that `elsa run submit` sends: what a file says, with the probes of another where one is given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elsa.data.probes import read_probes
from elsa.errors import SpecError
from elsa.parsing import parse
from elsa.spec import RunSpec, loaded


def read_specification(path: Path, probes: Path | None = None) -> RunSpec:
    """The specification in the file `path`, its probes taken from the file `probes`, one a line.

    Raises:
        SpecError: naming the file and the field; or that the run would ask nobody the probes.
        DataError: for a file of probes that cannot be used, naming its line.
    """
    raw = loaded(_text(path), str(path))
    if probes is None:
        return parse(RunSpec, raw, str(path))
    spec = parse(RunSpec, _with_sentences(raw, read_probes(probes)), str(path))
    if spec.clustering.method == "none":
        raise SpecError(
            f"--probes {probes}: nobody would be asked, {path} has clustering.method: none; "
            "set it to auto, or leave --probes out"
        )
    return spec


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SpecError(f"{path}: cannot be read ({reason}); give the path of a run specification in YAML") from error


def _with_sentences(raw: Any, sentences: Sequence[str]) -> Any:
    """`raw` with these probes; what is no mapping where one belongs is left for the parser to name."""
    clustering: Any = raw.get("clustering", {}) if isinstance(raw, Mapping) else None
    probes: Any = clustering.get("probes", {}) if isinstance(clustering, Mapping) else None
    if not isinstance(probes, Mapping):
        return raw
    return {**raw, "clustering": {**clustering, "probes": {**probes, "sentences": sentences}}}

"""The built-in corpus: a sentence of documentation, and the library that it describes.

First sentences of the docstrings of installed libraries, so that a real text task is at hand offline. Sentences
that name a library as a word are left out, since they would give the answer away; nothing is masked. So are
sentences that two libraries share, and all but the first of those made from one template.
"""

import hashlib
import importlib.util
import itertools
import json
import logging
import os
import platform
import re
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import numpy as np

from elsa.data.docstrings import python_files, sentences, template
from elsa.data.write import write_jsonl
from elsa.errors import DataError

LABELS = ("stdlib", "numpy", "scipy", "sklearn", "torch", "transformers")
SAMPLER_VERSION = 1
PER_FILE = 30  # sentences of one file at most, so that no file colours its library

_DISTRIBUTIONS = {"sklearn": "scikit-learn"}
_GIVEAWAY = re.compile(
    r"\b(stdlib|numpy|scipy|sklearn|scikit-learn|scikit|torch|pytorch|transformers|hugging ?face|c?python)\b",
    re.IGNORECASE,
)
_log = logging.getLogger(__name__)


def corpus(per_library: int = 1500, cache: Path | None = None) -> list[dict[str, str]]:
    """At most `per_library` rows for each of `LABELS`, each `{"text": sentence, "label": library}`.

    The first call reads the libraries' source for some seconds and keeps the rows in the folder `cache`
    (`default_cache()` when None), under a name that changes with the versions of the libraries, of Python and of
    the sampler; an unreadable cache is built again. Rows come in a fixed mixed order.

    Raises:
        DataError: a library that is not installed.
    """
    roots = library_roots()
    path = (cache or default_cache()) / f"corpus-{_key(per_library)}.jsonl"
    kept = _cached(path)
    if kept is not None:
        return kept
    rows = build(roots, per_library)
    _keep(path, rows)
    return rows


def build(roots: Mapping[str, Path], per_library: int, seed: int = 0) -> list[dict[str, str]]:
    """Sample the corpus from the folders `roots` (label → source), files in an order drawn from `seed`."""
    spare = per_library + per_library // 10 + 20  # for those that turn out to be shared
    found = {label: _sample(label, root, spare, seed) for label, root in roots.items()}
    homes: dict[str, int] = {}
    for sampled in found.values():
        for key in sampled:
            homes[key] = homes.get(key, 0) + 1
    rows = [
        {"text": text, "label": label}
        for label, sampled in found.items()
        for text in [text for key, text in sampled.items() if homes[key] == 1][:per_library]
    ]
    return [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]


def _sample(label: str, root: Path, count: int, seed: int) -> dict[str, str]:
    """Up to `count` sentences of one library, by what makes them the same: letters without case."""
    files = python_files(root)
    order = np.random.default_rng([seed, *label.encode()]).permutation(len(files))
    sampled: dict[str, str] = {}
    beyond: dict[str, str] = {}  # what PER_FILE holds back, used where a library has too few files
    templates: set[str] = set()
    for index in order:
        if len(sampled) >= count:
            break
        fresh: dict[str, str] = {}
        for sentence in sentences(files[index]):
            form = template(sentence)
            if form not in templates and not _GIVEAWAY.search(sentence):
                templates.add(form)
                fresh[sentence.casefold().rstrip(".!?")] = sentence
        keys = list(fresh)
        sampled.update((key, fresh[key]) for key in keys[:PER_FILE])
        beyond.update((key, fresh[key]) for key in keys[PER_FILE:])
    return dict(itertools.islice((sampled | beyond).items(), count))


def library_roots() -> dict[str, Path]:
    """Where the source of each of `LABELS` lies; nothing is imported. Raises DataError for one not installed."""
    roots = {"stdlib": Path(sysconfig.get_path("stdlib"))}
    for label in LABELS[1:]:
        found = importlib.util.find_spec(label)
        if found is None or found.origin is None:
            raise DataError(
                f"the built-in corpus needs the library {label}, which is not installed; "
                "pip install 'elsa[train]', or give a data file"
            )
        roots[label] = Path(found.origin).parent
    return roots


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/elsa`, or `~/.cache/elsa`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elsa"


def _key(per_library: int) -> str:
    versions = [metadata.version(_DISTRIBUTIONS.get(label, label)) for label in LABELS[1:]]
    parts = [str(SAMPLER_VERSION), str(per_library), platform.python_version(), *versions]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _cached(path: Path) -> list[dict[str, str]] | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return None
    return rows if rows and all(_is_row(row) for row in rows) else None


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and isinstance(row.get("text"), str) and row.get("label") in LABELS


def _keep(path: Path, rows: list[dict[str, str]]) -> None:
    try:
        write_jsonl(path, rows)
    except DataError as error:  # the rows are there all the same: a read-only file system costs time only
        _log.warning("the built-in corpus is not cached and will be built again: %s", error)

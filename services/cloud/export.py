"""A run's adapters as PEFT folders below the state folder, and those as streams of files."""

import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path

from elsa.errors import NotFoundError
from elsa.model.adapter_config import AdapterConfig
from elsa.model.export import export, source_of
from elsa.spec import RunSpec
from elsa.wire.adapter import decode_adapter
from services.cloud.blobs import Blobs, room
from services.cloud.records import Run


@dataclass(frozen=True, kw_only=True)
class Made:
    """An adapter that a run has made."""

    version: int
    sha256: str
    cluster: int | None = None
    """Whose it is; None for the run's."""


class Exports:
    """PEFT folders below `root`, one a version, written once. Calls block: use them in a thread.

    What lies in a version's place may be of a run that a restored database does not know: it is written anew then.
    """

    def __init__(self, root: Path, blobs: Blobs) -> None:
        self._root = root
        self._blobs = blobs
        self._lock = threading.Lock()

    def write(self, run: Run, made: Made) -> Path:
        """The folder of an adapter, written if it is not there.

        Raises NotFoundError, ChecksumError, InputError; FullDiskError, and OSError for what else a disk says.
        """
        name = f"version-{made.version}" + ("" if made.cluster is None else f"-cluster-{made.cluster}")
        folder = self._root / run.run_id / name
        if run.config is None:
            raise NotFoundError(f"run {run.run_id} has no version {made.version}; ask for an earlier one")
        source = _source(made.sha256, run.spec, run.config)
        with self._lock:  # of two, one writes, and none replaces what the other has begun to read
            if source_of(folder) != source:
                with room():
                    self._write(folder, run.spec, run.config, made, source)
        return folder

    def _write(self, folder: Path, text: str, config: AdapterConfig, made: Made, source: str) -> None:
        spec, tensors = RunSpec.from_yaml(text), decode_adapter(self._blobs.get(made.sha256))
        ssop = spec.privacy.ssop
        export(
            folder,
            tensors,
            config,
            labels=spec.data.labels,
            max_tokens=spec.model.max_tokens,
            turned=ssop.key if ssop is not None and ssop.edge == "blind" else None,
            cluster=made.cluster,
            source=source,
        )

    def files(self, run: Run, made: Made) -> list[tuple[str, bytes]]:
        """Names and contents of the folder's files, in order of their names. Raises as `write`."""
        folder = self.write(run, made)
        return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()]


def _source(sha256: str, text: str, config: AdapterConfig) -> str:
    """The SHA-256 of all that decides what is in a version's folder."""
    whole = json.dumps([sha256, text, config.to_peft_json()])
    return hashlib.sha256(whole.encode()).hexdigest()

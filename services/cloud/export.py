"""A run's adapters as PEFT folders below the state folder, and those as streams of files."""

from dataclasses import dataclass
from pathlib import Path

from elsa.errors import NotFoundError
from elsa.model.export import export
from elsa.spec import RunSpec
from elsa.wire.adapter import decode_adapter
from services.cloud.blobs import Blobs
from services.cloud.records import Run


@dataclass(frozen=True, kw_only=True)
class Made:
    """An adapter that a run has made."""

    version: int
    sha256: str
    cluster: int | None = None
    """Whose it is; None for the run's."""


class Exports:
    """PEFT folders below `root`, one a version, written once. Calls block: use them in a thread."""

    def __init__(self, root: Path, blobs: Blobs) -> None:
        self._root = root
        self._blobs = blobs

    def write(self, run: Run, made: Made) -> Path:
        """The folder of an adapter, written if it is not there. Raises NotFoundError, InputError."""
        name = f"version-{made.version}" + ("" if made.cluster is None else f"-cluster-{made.cluster}")
        folder = self._root / run.run_id / name
        if folder.is_dir():
            return folder
        if run.config is None:
            raise NotFoundError(f"run {run.run_id} has no version {made.version}; ask for an earlier one")
        spec = RunSpec.from_yaml(run.spec)
        tensors = decode_adapter(self._blobs.get(made.sha256))
        ssop = spec.privacy.ssop
        export(
            folder,
            tensors,
            run.config,
            labels=spec.data.labels,
            max_tokens=spec.model.max_tokens,
            turned=ssop.key if ssop is not None and ssop.edge == "blind" else None,
            cluster=made.cluster,
        )
        return folder

    def files(self, run: Run, made: Made) -> list[tuple[str, bytes]]:
        """Names and contents of the folder's files, in order of their names. Raises as `write`."""
        folder = self.write(run, made)
        return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()]

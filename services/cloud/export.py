"""A run's adapters as PEFT folders below the state folder, and those as streams of files."""

from pathlib import Path

from elsa.errors import NotFoundError
from elsa.model.export import export
from elsa.spec import RunSpec
from elsa.wire.adapter import decode_adapter
from services.cloud.blobs import Blobs
from services.cloud.records import Round, Run


class Exports:
    """PEFT folders below `root`, one a version, written once. Calls block: use them in a thread."""

    def __init__(self, root: Path, blobs: Blobs) -> None:
        self._root = root
        self._blobs = blobs

    def write(self, run: Run, made: Round) -> Path:
        """The folder of a closed round's version, written if it is not there. Raises NotFoundError, InputError."""
        folder = self._root / run.run_id / f"version-{made.version}"
        if folder.is_dir():
            return folder
        if made.sha256 is None or run.config is None:
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
        )
        return folder

    def files(self, run: Run, made: Round) -> list[tuple[str, bytes]]:
        """Names and contents of the folder's files, in order of their names. Raises as `write`."""
        folder = self.write(run, made)
        return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()]

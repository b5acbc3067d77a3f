"""A site's rows for a run: read, encoded, and split in those to train on and those kept back. They never leave."""

from collections.abc import Mapping
from dataclasses import dataclass

from elsa.data.encoding import EncodedData, encode
from elsa.data.examples import Example, RowReport, read_examples, split_holdout
from elsa.data.source import read_rows
from elsa.errors import DataError
from elsa.model.weights import Checkpoint
from elsa.spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class SiteData:
    """A client's rows for one run."""

    train: EncodedData
    heldout: EncodedData
    report: str


def load(spec: RunSpec, checkpoint: Checkpoint, data: Mapping[str, str], heldout: Mapping[str, str]) -> SiteData:
    """The rows of the data set that the run names.

    Args:
        data: sources by data set name, as the site's owner configured them.
        heldout: sources of rows to evaluate on, where they are not to be taken from `data`.

    Raises:
        DataError: no such data set, an unreadable source, or too few rows.
        ModelError: the model takes no rows as long as the run's.
    """
    name = spec.data.name
    if name not in data:
        raise DataError(f"this site has no data set {name!r}; it offers {', '.join(sorted(data)) or 'none'}")
    checkpoint.check_length(spec.model.max_tokens, spec.model.task, len(spec.data.labels))
    tokenizer = checkpoint.tokenizer()

    def examples(source: str) -> tuple[list[Example], RowReport]:
        return read_examples(read_rows(source), spec.data, spec.model.task, source)

    rows, report = examples(data[name])
    if name in heldout:
        kept, kept_report = examples(heldout[name])
        train, report = encode(rows, tokenizer, spec.model, spec.data, report)
        evaluation, kept_report = encode(kept, tokenizer, spec.model, spec.data, kept_report)
        return SiteData(train=train, heldout=evaluation, report=f"train: {report}; held out: {kept_report}")
    rows, kept = split_holdout(rows, spec.data.holdout, spec.seed)
    train, report = encode(rows, tokenizer, spec.model, spec.data, report)
    evaluation, report = encode(kept, tokenizer, spec.model, spec.data, report)
    return SiteData(train=train, heldout=evaluation, report=str(report))

"""What one client can carry in a run, as its memory, its owner and the run allow; known before weights are loaded."""

from dataclasses import dataclass

import numpy as np

from elsa.data.encoding import EncodedData
from elsa.errors import CapacityError, MalformedError
from elsa.model.adapter_config import AdapterConfig
from elsa.model.weights import Checkpoint
from elsa.plan.admission import check_client_fits, sized
from elsa.plan.memory import client_needs
from elsa.plan.shape import ModelShape, Workload
from elsa.spec import RunSpec, Split
from elsa.train.sizes import model_shape
from services.client.settings import ClientSettings
from services.rpc.ledger import Account
from services.rpc.memory import available_bytes, give_back


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one client in one run."""

    name: str
    """The client's."""
    shape: ModelShape
    workload: Workload
    memory_bytes: int
    """What may be taken beyond the process without a model."""
    max_bottom: int | None
    """Most blocks before the cut, as its owner wants it."""
    least: Split
    """The split as given; where splits are planned, what each client keeps at least."""
    account: Account | None = None
    """Of the run, beside others of this process; None: there are none."""

    @classmethod
    def of(
        cls,
        spec: RunSpec,
        checkpoint: Checkpoint,
        config: AdapterConfig,
        rows: EncodedData,
        settings: ClientSettings,
        account: Account,
    ) -> "Limits":
        """Ask for the memory that other runs leave, once ended ones have given theirs back, then count what it takes.

        Raises:
            CapacityError: the system does not tell how much memory is free, and no cap is set; or it does not hold
                the weights and adapter of the least split, with the figures.
            ModelError, SpecError: the model, or a codec at its width, cannot be counted.
        """
        give_back()
        memory_bytes = account.there()

        def check(counted: ModelShape) -> None:
            least, workload = spec.split_of(settings.name, counted.blocks), _workload(spec, counted, rows)
            try:
                check_client_fits(counted, workload, least, memory_bytes, settings.name)
            except CapacityError as error:
                raise CapacityError(f"{error} (each figure is without activations of blocks and head)") from error

        shape = model_shape(spec, checkpoint, config, check)
        return cls(
            name=settings.name,
            shape=shape,
            workload=_workload(spec, shape, rows),
            memory_bytes=memory_bytes,
            max_bottom=settings.max_bottom,
            least=spec.split_of(settings.name, shape.blocks),
            account=account,
        )

    def check(self, split: Split) -> None:
        """Refuse a split that this client cannot carry.

        Raises:
            CapacityError: with the figures, where its memory does not hold it, or its owner does not want it.
            MalformedError: it keeps less than the run says that each client does.
        """
        if split.bottom < self.least.bottom or split.top < self.least.top:
            raise MalformedError(f"split {split} keeps less than the run's least, {self.least}")
        if self.max_bottom is not None and split.bottom > self.max_bottom:
            raise CapacityError(
                f"{self.name} takes at most {self.max_bottom} blocks before the cut (max_bottom), and split {split} "
                f"(bottom/trunk/top) has {split.bottom}; raise max_bottom or lower the split's bottom"
            )
        check_client_fits(self.shape, self.workload, split, self.memory_bytes, self.name)

    @property
    def most_blocks(self) -> int:
        """Blocks that its memory has room for, forward and backward, beside both ends."""
        return client_needs(self.shape, self.workload).blocks_within(self.memory_bytes)

    def reserve(self, split: Split) -> None:
        """Have what a split takes reserved. Raises CapacityError where other runs of this process have it."""
        if self.account is not None:
            self.account.reserve(client_needs(self.shape, self.workload).of(split.bottom, split.top).total)

    def check_grows(self, carried: Split | None, split: Split) -> None:
        """Raise CapacityError unless memory is free now for what `split` takes beyond `carried`, with the figures."""
        needs = client_needs(self.shape, self.workload)
        before = 0 if carried is None else needs.of(carried.bottom, carried.top).total
        more = needs.of(split.bottom, split.top).total - before
        if more <= 0:
            return
        give_back()
        there = available_bytes()
        if there is not None and more > there:
            raise CapacityError(
                f"{self.name} needs {sized(more)} more for bottom {split.bottom} and top {split.top}, "
                f"{sized(there)} are free now: end what else takes memory, or lower max_memory_mib"
            )


def _workload(spec: RunSpec, shape: ModelShape, rows: EncodedData) -> Workload:
    padded = padded_tokens(rows, -(-spec.training.batch // spec.training.micro_batches))
    return Workload.of(spec, shape.width, mean_tokens(rows), padded)


def padded_tokens(rows: EncodedData, drawn: int) -> float:
    """Tokens of the longest of `drawn` rows, on average: to which a micro-batch is padded.

    Each rank of length counts by the chance that the longest of so many draws is of it.
    """
    lengths = np.sort([len(row.ids) for row in rows.rows])
    up_to = (np.arange(len(lengths) + 1) / len(lengths)) ** drawn
    return float(np.sum(lengths * np.diff(up_to)))


def mean_tokens(rows: EncodedData) -> float:
    """Real tokens of a row on average."""
    return sum(len(row.ids) for row in rows.rows) / len(rows.rows)

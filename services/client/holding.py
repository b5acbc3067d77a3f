"""This client's part of a run's model, kept over the whole run: from one edge to the next and from share to share.

When the split changes, only the difference is received, loaded or freed.
"""

from elsa.model import adapter as adapters
from elsa.model.adapter_config import AdapterConfig
from elsa.model.segment import Segment
from elsa.spec import RunSpec, Split
from elsa.v1.split_pb2_grpc import SplitServiceStub
from services.client.base import RunBase
from services.rpc.memory import give_back


class Holding:
    """The one segment of a client in a run. For the run's own thread.

    Args:
        config: of the adapter that the run trains.
        base: where the weights come from; opened.
    """

    def __init__(self, spec: RunSpec, config: AdapterConfig, base: RunBase) -> None:
        self._spec = spec
        self._config = config
        self._base = base
        self._segment: Segment | None = None

    def receive(self, split: Split, stub: SplitServiceStub, peer: str) -> bool:
        """Receive what `split` needs and this machine lacks; False if that needs another call.

        Raises as `RunBase.complete`; what is held stays as it is.
        """
        return self._base.complete(_blocks(split), stub, peer)

    def take(self, split: Split) -> Segment:
        """The segment with exactly the blocks of `split`, and an adapter at the values that all clients begin from.

        What was taken before is not to be used any more. `receive` must have been true for this split.

        Raises:
            SplitError, CheckpointError, ChecksumError: as `Segment.client`.
        """
        blocks, checkpoint = _blocks(split), self._base.checkpoint
        if self._segment is None:
            self._segment = Segment.client(
                checkpoint,
                split,
                task=self._spec.model.task,
                num_labels=len(self._spec.data.labels),
                base=self._spec.model.base_dtype,
                checkpointing=self._spec.training.checkpointing,
                seed=self._spec.seed,
            )
        elif self._segment.owned != frozenset(blocks):
            self._segment.hold(checkpoint, blocks)
            give_back()
        if self._segment.attached is not None:
            adapters.detach(self._segment)
        adapters.attach(self._segment, self._config)
        return self._segment


def _blocks(split: Split) -> tuple[int, ...]:
    """Numbers of the blocks that a client keeps, rising."""
    return tuple(block for block in range(split.blocks) if block not in split.trunk_blocks)

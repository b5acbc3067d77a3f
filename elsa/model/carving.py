"""Which part of a skeleton is kept: what is not owned is replaced for good, so that it is never allocated or read."""

from collections.abc import Collection

from torch import nn

from elsa.model.alone import alone
from elsa.model.loading import stored_parameters
from elsa.model.skeleton import Skeleton, head_modules, skeleton
from elsa.model.stand_in import PassThrough, place
from elsa.model.weights import Checkpoint
from elsa.spec import Task


def carve(bones: Skeleton, owned: Collection[int], *, ends: bool, stand_in: nn.Module) -> None:
    """Put `stand_in` in the place of all blocks but the owned ones and, without `ends`, of all before and after."""
    for index in range(len(bones.blocks)):
        if index not in owned:
            bones.blocks[index] = stand_in
    if ends:
        return
    architecture = bones.architecture
    paths = [*architecture.embedding_paths(), *architecture.head_paths(bones.task)]
    for path in (*paths, architecture.final_norm):
        if path is not None:
            parent, name = place(bones.model, path)
            parent._modules[name] = stand_in


def without_vocabulary(bones: Skeleton, stand_in: nn.Module) -> None:
    """Put `stand_in` in the place of the embeddings, and of a head over the vocabulary."""
    heads = bones.architecture.head_paths(bones.task) if bones.task == "causal-lm" else ()
    for path in (*bones.architecture.embedding_paths(), *heads):
        parent, name = place(bones.model, path)
        parent._modules[name] = stand_in


@alone
def owned_tensors(
    checkpoint: Checkpoint, owned: Collection[int], *, ends: bool, task: Task, num_labels: int = 0
) -> tuple[str, ...]:
    """Names of the tensors that a segment of these blocks reads from the checkpoint, in order; nothing is allocated.

    Raises as `Segment.client`.
    """
    bones = skeleton(checkpoint, task, num_labels)
    _, new = head_modules(bones, checkpoint) if ends else ((), ())
    carve(bones, owned, ends=ends, stand_in=PassThrough())
    return tuple(sorted(stored_parameters(bones.model, new)))

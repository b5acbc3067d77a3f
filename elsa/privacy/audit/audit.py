"""The audit: each setting is trained and attacked, on the user's own model, split and rows.

The attacker is an honest-but-curious edge that knows everything but keys, rows and labels: the base model, the
protection, public text, text of the same kind as the client's, and the client's bottom, since clients push their
adapter tensors to be averaged. States are attacked as they are when training begins and when it ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from elsa.data.encoding import EncodedData
from elsa.data.probes import public_probes
from elsa.errors import DataError, NotFiniteError
from elsa.model.weights import Checkpoint
from elsa.privacy.audit.cut import Cut
from elsa.privacy.audit.gradients import LabelRecovery, label_recoveries, public_gradients, token_recovery
from elsa.privacy.audit.observed import Knowledge, Observed, Recovery, strongest
from elsa.privacy.audit.public import Frame, PublicBottom
from elsa.privacy.audit.settings import Setting
from elsa.privacy.audit.utility import CLIENT_KEY, Trained, train
from elsa.privacy.noise import epsilon
from elsa.spec import RunSpec
from elsa.train.rehearsal import Sides

SUCCEEDS = 0.85
"""Top-1 that the attacks must reach behind one block where nothing is protected."""
WATCHED_ROWS = 256
TAUGHT_ROWS = 512
CLIENT_SEED, ATTACKER_SEED = 1, 2
AT_FIRST = "as training begins"
Attack = Callable[[Observed, Knowledge], Sequence[Recovery]]
Floor = Callable[[Observed, Knowledge], Recovery]
Told = Callable[[str, float], None]
"""Called with what is being done, and the share of the setting that is done."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """What an audit works on: rows of a client, rows to measure accuracy on, and texts that the attacker has."""

    train: EncodedData
    heldout: EncodedData
    attacked: Sequence[Sequence[int]]  # token numbers of rows of the client
    public: Sequence[Sequence[int]]  # token numbers of others


@dataclass(frozen=True, kw_only=True)
class Result:
    """One setting: what leaked and what it cost."""

    setting: str
    split: str
    tokens: tuple[Recovery, ...] = ()
    labels: tuple[LabelRecovery, ...] = ()
    accuracies: tuple[float, ...] = ()
    """One for each seed."""
    up_bytes: float = 0.0
    down_bytes: float = 0.0
    epsilon: float | None = None
    failure: str = ""
    """Why it could not be trained; the rest is empty then."""

    @property
    def strongest(self) -> Recovery:
        """The attack on tokens that counts."""
        return strongest(self.tokens)

    @property
    def strongest_on_labels(self) -> LabelRecovery | None:
        """The attack on labels that counts; None where none was run."""
        return max(self.labels, key=lambda row: row.accuracy, default=None)

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return sum(self.accuracies) / max(len(self.accuracies), 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """Runs settings one after another.

    Args:
        base: the run's specification; each setting says what differs.
        attack: the ladder of attacks on h1.
        blind: what is recovered of tokens without looking at h1; the same for all settings.
        steps: of training under each setting.
        seeds: how often each setting is trained; the first is attacked.
        told: hears how far it is.
    """

    base: RunSpec
    checkpoint: Checkpoint
    material: Material
    attack: Attack
    blind: Floor
    steps: int = 250
    seeds: int = 1
    told: Told = field(default=lambda doing, done: None)

    def check(self) -> Recovery:
        """The strongest attack behind one block, nothing trained or protected.

        Raises DataError if it does not succeed: figures for protected settings would mean nothing.
        """
        spec = Setting(name="check", bottom=1).spec(self.base)
        cut = self._cut(spec)
        bottom = self._public(Sides.of(spec, self.checkpoint))
        found = strongest(self.attack(*self._observed(cut, bottom)))
        if found.top1 < SUCCEEDS:
            raise DataError(
                f"the attacks recover only {found.top1:.2f} of unprotected tokens behind one block, not the "
                f"{SUCCEEDS:.2f} that they must: figures for protected settings would mean nothing; "
                "raise --rows, or give more data"
            )
        return found

    def run(self, setting: Setting) -> Result:
        """Train and attack one setting. Raises SpecError where it does not fit the run or the model."""
        spec = setting.spec(self.base)
        cut = self._cut(spec)
        split = str(spec.split.of(self.blocks))
        try:
            first = self._trained(setting.name, cut, 0)
            others = [self._trained(setting.name, cut, seed).accuracy for seed in range(1, self.seeds)]
        except NotFiniteError as error:
            return Result(setting=setting.name, split=split, failure=f"training diverged: {error}")
        self.told(f"{setting.name}: attacking", 1.0)
        noise = spec.privacy.noise
        return Result(
            setting=setting.name,
            split=split,
            tokens=(*self._by_state(cut, first), *self._by_gradient(cut, first), self.floor),
            labels=tuple(self._labels(cut, first)),
            accuracies=(first.accuracy, *others),
            up_bytes=first.up_bytes,
            down_bytes=first.down_bytes,
            epsilon=None if noise is None else epsilon(noise, cut.releases),
        )

    @cached_property
    def floor(self) -> Recovery:
        """What lengths alone give away of the rows attacked."""
        spec = Setting(name="floor").spec(self.base)
        cut = self._cut(spec)
        return self.blind(*self._observed(cut, self._public(Sides.of(spec, self.checkpoint))))

    @property
    def releases(self) -> int:
        """How often a row is sent in training: the epochs begun."""
        return -(-self.steps * self.base.training.batch // len(self.material.train))

    @property
    def blocks(self) -> int:
        """Blocks of the whole model."""
        task, labels = self.base.model.task, len(self.base.data.labels)
        return int(self.checkpoint.config(task, labels).num_hidden_layers)

    def public_states(self, spec: RunSpec) -> torch.Tensor:
        """(tokens, width): states of the public probes at the cut of `spec`, from the pretrained bottom."""
        split, task = spec.split.of(self.blocks), spec.model.task
        probes = public_probes()
        limit = spec.model.max_tokens
        return PublicBottom.open(self.checkpoint, split, probes, task=task, max_tokens=limit).text_states

    def _cut(self, spec: RunSpec) -> Cut:
        special = self.checkpoint.tokenizer().all_special_ids
        return Cut(spec=spec, public=self.public_states(spec), releases=self.releases, special=special)

    def _trained(self, name: str, cut: Cut, seed: int) -> Trained:
        spec = cut.spec.model_copy(update={"seed": cut.spec.seed + seed})
        return train(
            replace(cut, spec=spec),
            self.checkpoint,
            self.material.train,
            self.material.heldout,
            steps=self.steps,
            watched=0 if seed or spec.model.task != "classification" else WATCHED_ROWS,
            told=lambda done, steps: self.told(f"{name}: training", (seed + done / steps) / self.seeds),
        )

    def _public(self, sides: Sides) -> PublicBottom:
        frame = Frame.of(self.checkpoint.tokenizer())
        return PublicBottom(sides.client, sides.split, frame=frame, text=self.material.public)

    def _observed(self, cut: Cut, bottom: PublicBottom) -> tuple[Observed, Knowledge]:
        rows = self.material.attacked
        observed = Observed(
            states=cut.protect(bottom.states(rows), CLIENT_KEY, CLIENT_SEED),
            ids=torch.tensor([token for row in rows for token in row]),
            lengths=tuple(len(row) for row in rows),
        )
        return observed, Knowledge(
            public=bottom,
            codec=lambda states: cut.coded(states, ATTACKER_SEED),
            basis=cut.basis() if cut.blind else None,
            protect=lambda states, key: cut.protect(states, key + 1, ATTACKER_SEED + key),
        )

    def _by_state(self, cut: Cut, trained: Trained) -> list[Recovery]:
        """The ladder on h1 as it is at the end, and as it was first: a run sends rows from its first step on."""
        found = list(self.attack(*self._observed(cut, self._public(trained.sides))))
        if not (cut.spec.lora.bottom_adapters or cut.begins_plain):
            return found
        before = Sides.of(cut.spec, self.checkpoint)
        first = self.attack(*self._observed(replace(cut, begins=True, releases=1), self._public(before)))
        return found + [replace(row, attack=f"{row.attack}, {AT_FIRST}") for row in first]

    def _labels(self, cut: Cut, trained: Trained) -> list[LabelRecovery]:
        if cut.spec.model.task != "classification":
            return []
        before = Sides.of(cut.spec, self.checkpoint)  # what the edge knows of the top while the round lasts
        basis = cut.basis() if cut.blind else None
        return label_recoveries(trained.seen, trained.labels, before.client, before.split, basis=basis)

    def _by_gradient(self, cut: Cut, trained: Trained) -> list[Recovery]:
        if cut.spec.model.task != "classification" or not cut.spec.lora.bottom_adapters:
            return []
        before = Sides.of(cut.spec, self.checkpoint)
        rows = self.material.public[:TAUGHT_ROWS]
        taught = public_gradients(before, rows, len(cut.spec.data.labels), cut.spec.seed)
        embeddings = before.client.model.get_input_embeddings().weight
        return [token_recovery(trained.seen, trained.ids, taught, embeddings, self._public(before).frame)]

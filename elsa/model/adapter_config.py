"""What an adapter is: its rank, what it targets and what it trains in full. No torch: the cloud uses it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from elsa.spec import Task

_TASK_TYPES: Mapping[Task, str] = {"classification": "SEQ_CLS", "causal-lm": "CAUSAL_LM"}


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """A LoRA adapter of a whole model, the same for all roles and splits of a run."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """Names of the projections that get LoRA factors."""
    modules_to_save: tuple[str, ...]
    """Names of the head modules that are trained in full."""
    task: Task
    base: str
    """Source of the base model: 'minilm', a folder or a hub name."""
    transposed: bool = False
    """Whether the projections keep their weights as (in, out): PEFT's `fan_in_fan_out`."""

    def to_peft_json(self) -> dict[str, Any]:
        """The contents of an `adapter_config.json` that `PeftModel.from_pretrained` accepts."""
        return {
            "peft_type": "LORA",
            "task_type": _TASK_TYPES[self.task],
            "base_model_name_or_path": self.base,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "target_modules": list(self.targets),
            "modules_to_save": list(self.modules_to_save) or None,
            "fan_in_fan_out": self.transposed,
            "bias": "none",
            "init_lora_weights": True,
            "use_rslora": False,
            "inference_mode": True,
        }

    @classmethod
    def from_peft_json(cls, raw: Mapping[str, Any]) -> "AdapterConfig":
        """Read back what `to_peft_json` wrote. Raises KeyError, TypeError or ValueError if it is otherwise."""
        tasks = {task_type: task for task, task_type in _TASK_TYPES.items()}
        return cls(
            rank=int(raw["r"]),
            alpha=float(raw["lora_alpha"]),
            targets=tuple(str(name) for name in raw["target_modules"]),
            modules_to_save=tuple(str(name) for name in raw["modules_to_save"] or ()),
            task=tasks[raw["task_type"]],
            base=str(raw["base_model_name_or_path"]),
            transposed=bool(raw["fan_in_fan_out"]),
        )

"""Take what PEFT put into a model out again, all adapters at once."""

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from elsa.model.stand_in import place


def strip(model: nn.Module) -> None:
    """Put the modules back that LoRA layers and head wrappers stand for; the same objects, with their values."""
    for path, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            inside = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper):
            inside = module.original_module
        else:
            continue
        parent, name = place(model, path)
        parent._modules[name] = inside
    if hasattr(model, "peft_config"):
        del model.peft_config  # else PEFT would take the next adapter for one more of these

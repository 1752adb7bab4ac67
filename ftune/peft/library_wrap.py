"""peft's own methods put on a model, with peft's complaints in the words of the recipe."""

from typing import TYPE_CHECKING, Any

from ftune.core.errors import ModelError
from ftune.peft.targets import check_layers, chosen_linears, task_type

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def wrapped(model: "PreTrainedModel", name: str, config_class: str, keys: dict[str, Any]) -> "PeftModel":
    """`model` with the method `name` on it, whose keys have these values; what trains is in fp32."""
    import peft

    arguments = dict(keys)
    if "target_modules" in keys:
        arguments["target_modules"] = chosen_linears(model, keys["target_modules"])
    if "layers" in keys:
        check_layers(model, arguments["layers"])
        arguments["layers_to_transform"] = arguments.pop("layers")
    if name == "xlora":
        arguments["hidden_size"] = model.config.get_text_config().hidden_size
        model.config.use_cache = False
    config = getattr(peft, config_class)(task_type=task_type(model), **arguments)
    found = peft.get_peft_model(model, config)
    for parameter in found.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return found

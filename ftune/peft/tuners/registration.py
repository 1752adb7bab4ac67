"""How a tuner of ftune becomes one of peft's."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftConfig
    from peft.tuners.tuners_utils import BaseTuner
    from peft.utils.peft_types import PeftType


def register(name: str, config_cls: "type[PeftConfig]", model_cls: "type[BaseTuner]", prefix: str) -> None:
    """Make a tuner known to peft as `name`, in capitals the `peft_type` of its adapter_config.json.

    `prefix` begins the names of the tuner's parameters and is `model_cls.prefix` too. Registering the same tuner again
    does nothing. Raises KeyError when peft has another method of that name or prefix.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import register_peft_method
    from peft.utils.peft_types import PeftType

    kind = name.upper()
    if PEFT_TYPE_TO_TUNER_MAPPING.get(kind) is model_cls:
        return
    if kind not in PeftType.__members__:
        _add_member(PeftType, kind)
    register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls, prefix=prefix)


def _add_member(enum: "type[PeftType]", name: str) -> None:
    """A further member of peft's enum of methods, whose value is its name.

    peft 0.21 takes methods from outside (`register_peft_method`), but only under names in this enum, which Python
    closes when the class is made. What the enum machinery does for a member is done here: the same on Python 3.11 to
    3.14. It can go once peft takes other names.
    """
    member: PeftType = str.__new__(enum, name)
    member._name_ = member._value_ = name
    setattr(enum, name, member)
    enum._member_map_[name] = enum._value2member_map_[name] = member
    enum._member_names_.append(name)

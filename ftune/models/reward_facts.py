"""`reward_model.json`: what lies beside a reward model, so that whoever scores with it does it as it was trained."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ftune.core.checkpoints import storage_errors
from ftune.core.errors import ModelError

FILE = "reward_model.json"


@dataclass(frozen=True, slots=True)
class RewardFacts:
    """How scores are made. A score is the logit at the last token of the whole row, padding left out."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    kind: Literal["scalar", "classifier"]
    base_model: str
    """What `from_pretrained` opened, or the hub id."""
    base_fingerprint: str
    """Of the base's weights; see `ftune.models.fingerprint`."""
    template: str | None = None
    """sha256 of the chat template that rows were rendered with; None for plain text."""
    labels: list[str] = field(default_factory=list)
    """The classes of a classifier, in the order of its logits."""
    positive_class: str | None = None
    """The class whose logit is the reward."""
    mean: float | None = None
    """Mean and standard deviation of the scores of all validation answers; None without validation rows."""
    std: float | None = None
    rows: int = 0
    """Validation answers behind them."""
    quantized: bool = False
    """Whether the base's weights were quantised while its adapter was trained."""

    def write(self, folder: Path) -> None:
        """Put the file into a result folder that is being staged."""
        with storage_errors(folder):
            (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_reward_facts(folder: Path) -> RewardFacts | None:
    """The facts of a result folder; None where a model came without them. Raises ModelError for a broken file."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return TypeAdapter(RewardFacts).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{key}: " for key in first["loc"])
        raise ModelError(f"{path}: is not what 'ftune rm' writes ({where}{first['msg']})") from None

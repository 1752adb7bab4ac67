"""What trains and the optimiser's state of it, as whole tensors by name, however a backend splits them over ranks."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor


class TrainedState(ABC):
    """One view of a training run's state for all backends; checkpoints are written and read through it.

    All ranks call the same methods with the same names in the same order, since some of them exchange shards.
    """

    @abstractmethod
    def names(self) -> list[str]:
        """The trained parameters, as the model names them, in its order; the same on all ranks."""

    @abstractmethod
    def weight(self, name: str) -> Tensor:
        """The whole parameter, in fp32 where the optimiser keeps it so."""

    @abstractmethod
    def optimizer(self, name: str) -> dict[str, Tensor]:
        """The optimiser's tensors of a parameter by their keys (`exp_avg`, `step`, ...), whole; at first none."""

    @abstractmethod
    def put_weight(self, name: str, value: Tensor) -> None:
        """Bring back a whole parameter, the same on all ranks; each keeps its own share."""

    @abstractmethod
    def put_optimizer(self, name: str, values: dict[str, Tensor]) -> None:
        """Bring back what `optimizer` gave."""

    @abstractmethod
    def scalars(self) -> dict[str, Any]:
        """What else goes on: hyperparameters of parameter groups, loss scale; plain JSON, the same on all ranks."""

    @abstractmethod
    def put_scalars(self, values: dict[str, Any]) -> None:
        """Bring back what `scalars` gave. Called after all tensors."""

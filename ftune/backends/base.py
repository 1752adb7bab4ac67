"""What every backend provides."""

from abc import abstractmethod

from ftune.core.section import Section


class Backend(Section):
    """A way to use devices and processes."""

    @abstractmethod
    def training_args(self) -> dict[str, object]:
        """The arguments of transformers' TrainingArguments that put the run on this backend."""

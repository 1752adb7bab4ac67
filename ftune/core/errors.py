"""The errors that ftune raises on purpose: each says where, what was found, what is allowed, and what to do."""

from typing import ClassVar


class FtuneError(Exception):
    """Base of all expected failures; the command line prints the message and exits with `exit_code`.

    A message has one line a fault, each complete in itself: `place: what was found; what to do`.
    """

    exit_code: ClassVar[int] = 1


class RecipeError(FtuneError):
    """The recipe, an override or a command-line value is wrong."""

    exit_code = 2


class DataError(FtuneError):
    """Rows or files of the data set are missing, broken or would teach nothing."""

    exit_code = 2


class ModelError(FtuneError):
    """A model, tokenizer or adapter is missing, broken or does not fit the recipe."""

    exit_code = 2


class LaunchError(FtuneError):
    """The machine cannot run what the recipe asks for."""

    exit_code = 2


class RewardError(FtuneError):
    """A reward source gave no usable number: it raised, timed out, or returned something else."""

    exit_code = 2


class DivergedError(FtuneError):
    """Training met too many non-finite losses or gradients in a row."""

    exit_code = 70


class CheckpointError(FtuneError):
    """A checkpoint is damaged, missing, or belongs to another run."""

    exit_code = 2


class StorageError(FtuneError):
    """A file could not be written or read: no space, no permission, a failing disk."""

    exit_code = 74


class StoppedError(FtuneError):
    """The run was asked to stop, saved its state and can be resumed."""

    exit_code = 75

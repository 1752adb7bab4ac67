"""A Python function of one's own, with the signature of TRL's reward functions."""

import ast
import importlib.util
import inspect
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ftune.core.errors import RewardError
from ftune.core.paths import expanded
from ftune.core.section import Location
from ftune.core.suggest import did_you_mean
from ftune.rewards.base import RewardSource, Sample, Score, Scorer, Surroundings
from ftune.rewards.checked import checked, rows_of
from ftune.rewards.layout import columns_of, completions_of, prompts_of
from ftune.rewards.paths import looked_up


class Function(RewardSource):
    """What a Python function returns for prompts and completions. Naming it here is the consent to run it."""

    type: Literal["function"] = "function"

    function: str
    """`path.py:name`. It is called as `name(prompts=, completions=, completion_ids=, **columns)` with lists, and
    returns a list of numbers, with None for samples to leave out. It may be `async`."""

    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest time of one call in seconds."""

    @field_validator("function", mode="before")
    @classmethod
    def _find(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        path, colon, name = value.rpartition(":")
        if not colon or not path.endswith(".py") or not name.isidentifier():
            raise ValueError(f"give 'path.py:name', got '{value}'")
        return f"{looked_up(path, info)}:{name}"

    @property
    def file(self) -> Path:
        """The file that holds the function."""
        return expanded(self.function.rpartition(":")[0])

    def sha256(self) -> str:
        """Of the file's bytes, for the record of a run. Raises RewardError."""
        return sha256(self._bytes()).hexdigest()

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A file that is not there or no Python, or has no such function; nothing of it is run."""
        try:
            names = _names(ast.parse(self._bytes()))
        except RewardError as error:
            yield ("function",), str(error)
        except (SyntaxError, ValueError) as error:
            yield ("function",), f"'{self.file}' is no Python: {error}"
        else:
            name = self.function.rpartition(":")[2]
            if name not in names and "*" not in names:
                yield ("function",), f"'{self.file}' has no '{name}'{did_you_mean(name, names)}"

    def open(self, around: Surroundings) -> Scorer:
        """The function, its file having been run. Raises RewardError where that fails."""
        call = _Call(self._loaded(), self.file, self.timeout_s)

        def score(samples: Sequence[Sample]) -> list[Score]:
            return checked(call(samples), samples) if samples else []

        return score

    def _bytes(self) -> bytes:
        try:
            return self.file.read_bytes()
        except OSError as error:
            raise RewardError(f"'{self.file}' cannot be read: {error.strerror}") from None

    def _loaded(self) -> Callable[..., Any]:
        name = self.function.rpartition(":")[2]
        spec = importlib.util.spec_from_file_location(f"reward_function_{self.file.stem}", self.file.absolute())
        if spec is None or spec.loader is None:
            raise RewardError(f"'{self.file}' is no Python file")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever a stranger's file raises
            raise RewardError(f"importing it failed: {_told(error, self.file)}") from error
        found = getattr(module, name, None)
        if not callable(found):
            raise RewardError(f"'{name}' in '{self.file}' is {'missing' if found is None else 'no function'}")
        return found  # type: ignore[no-any-return]


class _Call:
    """Calls the function with a time limit, and finds the sample that it fails for."""

    def __init__(self, function: Callable[..., Any], file: Path, timeout_s: float) -> None:
        self._function = function
        self._file = file
        self._timeout_s = timeout_s
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError as error:  # of a function that is written in C
            raise RewardError(f"{error}; give a function that calls it") from None
        self._all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self._names = {parameter.name for parameter in parameters}

    def __call__(self, samples: Sequence[Sample]) -> object:
        """What the function returned. Raises RewardError when it raised or took too long."""
        try:
            return self._limited(samples)
        except _RaisedError as raised:
            where = rows_of(self._culprit(samples))
            raise RewardError(f"{where}: raised {_told(raised.error, self._file)}") from raised.error

    def _culprit(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The first sample for which it raises when that is given alone; all, where none is found in one time limit."""
        end = time.monotonic() + self._timeout_s
        for sample in samples if len(samples) > 1 else ():
            try:
                self._limited([sample])
            except (_RaisedError, RewardError):
                return [sample]
            if time.monotonic() > end:
                break
        return samples

    def _limited(self, samples: Sequence[Sample]) -> object:
        """One call in a thread of its own, which is left behind when it does not come to an end."""
        result: list[object] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                result.append(self._plain_call(samples))
            except BaseException as error:  # SystemExit too must not end a thread without a word
                failure.append(error)

        thread = Thread(target=work, daemon=True, name="reward function")
        thread.start()
        thread.join(self._timeout_s)
        if thread.is_alive():
            raise RewardError(
                f"{rows_of(samples)}: no answer within {self._timeout_s:g} seconds; make it faster or raise 'timeout_s'"
            )
        if failure:
            raise _RaisedError(failure[0])
        return result[0]

    def _plain_call(self, samples: Sequence[Sample]) -> object:
        given: dict[str, object] = {
            **columns_of(samples),
            "trainer_state": None,  # TRL passes these three; of them ftune has nothing to tell or to keep
            "log_extra": _ignore,
            "log_metric": _ignore,
            "prompts": prompts_of(samples),
            "completions": completions_of(samples),
            "completion_ids": [list(sample.token_ids) for sample in samples],
        }
        accepted = given if self._all else {name: value for name, value in given.items() if name in self._names}
        returned = self._function(**accepted)
        return _finished(returned) if inspect.isawaitable(returned) else returned


class _RaisedError(Exception):
    """The function raised."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def _finished(returned: Awaitable[object]) -> object:
    """What an `async` function returns in the end."""
    import asyncio  # slow to import, and every command imports this module

    async def awaited() -> object:
        return await returned

    return asyncio.run(awaited())


def _ignore(*_: object) -> None:
    """Stands for what TRL's trainer would log."""


def _told(error: BaseException, file: Path) -> str:
    """The error with its line in the user's file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file.absolute())]
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return words + (f" ({file}, line {lines[-1]})" if lines else "")


def _names(module: ast.Module) -> set[str]:
    """What a module may define; `*` where it imports what cannot be known without running it."""
    names: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names

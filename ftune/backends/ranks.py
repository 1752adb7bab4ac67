"""The processes of a run: how they meet, what they agree on, and how the end of one becomes the end of all.

First they meet in a key-value store, in which waiting may take as long as it takes: there the first process opens the
run's folder and prepares the rows while the others wait. Only then, by `open_group`, comes the process group, whose
exchanges have a time limit.
"""

import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, TypeVar

from ftune.backends.lifeline import Lifeline
from ftune.core.errors import FtuneError, LaunchError, StoppedError
from ftune.core.interface import interface_to
from ftune.core.world import World, joined

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

MEETING = timedelta(minutes=10)
"""How long the first process waits for the others."""

PATIENCE = timedelta(days=7)
"""How long one waits for another that is known to live: rows may take long to prepare."""

EXCHANGE = timedelta(minutes=10)
"""After this time an exchange counts as hung."""

NEWS_S = 3.0
"""How long an error waits for the news that another process failed first."""

CAUSE_S = 30.0
"""How long a process that ends because another one has failed waits for that one's words."""


class LostError(FtuneError):
    """Another process of the run is gone; the exit code is its own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]


class Ranks:
    """All processes, of which this is number `rank` of `count`."""

    def __init__(self, world: World | None = None) -> None:
        """Processes that have not met yet; without a `world`, this one alone."""
        self.world = world
        self.rank: int = world.rank if world else 0
        self.count: int = world.count if world else 1
        self.local_rank: int = world.local_rank if world else 0
        self._turn = 0
        self._cause: BaseException | None = None
        """The error of this process that ends the others."""
        self._follows: BaseException | None = None
        """The error with which this process ends because another one has failed."""
        self._lifeline: Lifeline | None = None

    @classmethod
    @contextmanager
    def meet(cls) -> Iterator["Ranks"]:
        """The processes that a launcher made. Whatever ends the work inside on one of them ends it on all.

        Raises LaunchError where they do not come together, LostError where one of them is lost.
        """
        world = joined()
        if world is None or world.count == 1:
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
                os.environ.pop(name, None)  # or libraries would open a group of one
            yield cls()
            return
        ranks = cls(world)
        if current_thread() is main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own waits until an exchange is over
        ranks._gather()
        try:
            yield ranks
            ranks.wait()
        except StoppedError:  # that was agreed on
            ranks.wait()
            ranks._leave()
            raise
        except BaseException as error:
            raise ranks._told(error) from error
        ranks._leave()

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def before_the_end(self, call: Callable[[], None]) -> None:
        """Let `call` be made when another process is lost and this one cannot end in an orderly way."""
        if self._lifeline is not None:
            self._lifeline.last_words.append(call)

    def wait(self) -> None:
        """Until all are here."""
        self._any(failed=False)

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives on the first process, on all; it has to be plain JSON. Others end where it fails."""
        if self.count == 1:
            return make()
        key = self._next("value")
        if not self.first:
            self._store.wait([key], PATIENCE)
            value: T = json.loads(self._store.get(key))
            return value
        value = make()
        self._store.set(key, json.dumps(value))
        return value

    def first_then_all(self, make: Callable[[], T]) -> T:
        """What `make` gives here; the first process makes it before the others begin."""
        if self.first:
            value = make()
            self.from_first(lambda: None)
            return value
        self.from_first(lambda: None)
        return make()

    @contextmanager
    def together(self, kind: type[FtuneError]) -> Iterator[None]:
        """End what is inside on all ranks or on none: where one fails, it raises its error and the others `kind`.

        Without this the others would wait for it in the next exchange. Inside, ranks must not exchange anything.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:  # whatever it is, it is raised again once the others know
            failure = self._cause = error
        somewhere = self._any(failed=failure is not None)
        if failure is not None:
            raise failure
        if somewhere:
            self._follows = kind("another process of this run failed, and says why; this one ends with it")
            raise self._follows

    def open_group(self, *, on_gpu: bool) -> None:
        """Let the processes exchange tensors from now on: over NCCL from GPUs, over gloo from CPUs."""
        if self.count == 1:
            return
        import torch
        from torch.distributed.distributed_c10d import PrefixStore

        self._choose_interface()
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            store=PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.count,
            timeout=EXCHANGE,
        )

    def sum(self, value: "torch.Tensor") -> "torch.Tensor":
        """The sum over all ranks, of tensors on CPUs or on GPUs."""
        import torch

        if self.count > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
        return value

    def sums(self, values: list[int]) -> list[int]:
        """The sums of whole numbers, without waiting for a GPU."""
        import torch

        if self.count == 1:
            return values
        summed: list[int] = self.sum(torch.tensor(values)).tolist()
        return summed

    def all(self, flag: bool) -> bool:
        """Whether it is so on every rank; they wait for each other."""
        return not self._any(failed=not flag)

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order, on every rank."""
        import torch

        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def _gather(self) -> None:
        from torch.distributed.rendezvous import rendezvous

        where = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        try:
            self._store = next(iter(rendezvous("env://", timeout=MEETING)))[0]
            self._store.set_timeout(PATIENCE)
            self._lifeline = Lifeline(
                self.rank,
                self.count,
                publish=lambda place: self._store.set("lifeline", place),
                find=lambda: self._store.get("lifeline").decode(),
            )
        except (OSError, RuntimeError, ValueError) as error:
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise LaunchError(
                f"process {self.rank} of {self.count}: the processes did not come together at {where} ({cause}); "
                f"check that all were started with the same address and that it can be reached from every node"
            ) from error

    def _choose_interface(self) -> None:
        """Gloo would take the interface of the machine's own name, which may lead nowhere."""
        if self.world is not None and self.world.nodes > 1 and "GLOO_SOCKET_IFNAME" not in os.environ:
            interface = interface_to(os.environ["MASTER_ADDR"])
            if interface not in (None, "lo"):
                os.environ["GLOO_SOCKET_IFNAME"] = str(interface)

    def _next(self, what: str) -> str:
        self._turn += 1
        return f"{what}/{self._turn}"

    def _any(self, *, failed: bool) -> bool:
        """Whether it failed on any rank; they wait for each other."""
        if self.count == 1:
            return failed
        key = self._next("together")
        if failed:
            self._store.add(f"{key}/failed", 1)
        if self._store.add(f"{key}/here", 1) == self.count:
            self._store.set(f"{key}/all", "")
        self._store.wait([f"{key}/all"], PATIENCE)
        return bool(self._store.add(f"{key}/failed", 0))

    def _told(self, error: BaseException) -> BaseException:
        """The error to end with, once the others know: that of a process that was lost before this one, or its own."""
        lifeline = self._lifeline
        if lifeline is None:
            return error
        speaks = isinstance(error, FtuneError | KeyboardInterrupt | SystemExit)
        if error is self._follows:
            loss = lifeline.wait(CAUSE_S)
        elif error is self._cause or speaks:
            loss = None
        else:
            loss = lifeline.wait(NEWS_S)
        if loss is not None:
            lifeline.close()
            return LostError(str(loss), loss.code)
        words = str(error) if speaks else "".join(traceback.format_exception(error)).strip()
        lifeline.fail(words, getattr(error, "exit_code", 1))
        return error

    def _leave(self) -> None:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        if self._lifeline is not None:
            self._lifeline.close()

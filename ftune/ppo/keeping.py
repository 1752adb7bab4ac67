"""What a run keeps: checkpoints to resume from, and the best policy to go back to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ftune.backends.ranks import Ranks
from ftune.core.checkpoints import verify
from ftune.core.errors import StorageError
from ftune.ppo.state import State, load_weights, save_best, save_checkpoint, snapshot
from ftune.ppo.telling import Teller
from ftune.ppo.update import Learner


@dataclass(frozen=True, slots=True)
class Keeper:
    """Every rank calls it, since parameters may be split over them; the first one writes."""

    folder: Path
    learner: Learner
    ranks: Ranks
    tell: Teller
    kept: int
    """Checkpoints that stay; older ones are removed."""
    facts: dict[str, object]
    """What checkpoints say of the run."""

    def checkpoint(self, state: State, *, must: bool) -> None:
        """Write one. A full disk does not end a run that can still finish, but one that `must` be saved.

        Raises StorageError.
        """
        taken = snapshot(self.learner.inner, self.learner.optimizer, keep=self.ranks.first)
        facts = self.facts | ({"ended_by": state.ended_by} if state.ended_by else {})

        def write() -> None:
            path = save_checkpoint(self.folder, state, taken, keep=self.kept, facts=facts)
            self.tell.event("checkpoint", step=state.iteration, path=path.name)

        with self.ranks.together(StorageError):
            if self.ranks.first:
                self._save(write, "checkpoint", must=must)

    def rescue(self, state: State) -> None:
        """Write a checkpoint of this iteration where there is none."""
        if not self.ranks.all(not self.ranks.first or (self.folder / f"checkpoint-{state.iteration}").exists()):
            self.checkpoint(state, must=False)

    def best(self) -> bool:
        """Keep the policy as it is now in `best/`; whether that could be done."""
        weights = snapshot(self.learner.inner, None, keep=self.ranks.first).weights
        kept = not self.ranks.first or self._save(lambda: save_best(self.folder, weights), "best", must=False)
        return self.ranks.all(kept)

    def lacks_best(self) -> list[str]:
        """What is wrong with the policy in `best/`; nothing where it is whole."""
        problems: list[str] = self.ranks.from_first(lambda: verify(self.folder / "best"))
        return problems

    def go_back(self) -> None:
        """Bring back the policy in `best/`, which the first rank wrote before the others were let go on."""
        load_weights(self.folder / "best", self.learner.inner)

    def _save(self, write: Callable[[], None], what: str, *, must: bool) -> bool:
        """Whether it was saved."""
        try:
            write()
        except StorageError as error:
            if must:
                raise
            self.tell.event("save_failed", what=what, why=str(error))
            self.tell.warning(f"{what} not saved, training goes on: {error}")
            return False
        return True

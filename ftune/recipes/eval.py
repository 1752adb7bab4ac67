"""`ftune eval`: what a model does on rows that training never saw, beside what its base does."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ftune.backends.machine import count_gpus
from ftune.core.paths import expanded
from ftune.core.section import Location
from ftune.core.variants import union_of
from ftune.data.template import check_named
from ftune.evals.harness import absent
from ftune.evals.metrics.base import Metric, clash
from ftune.judges.base import Judge
from ftune.recipes.base import Recipe, RunOptions
from ftune.recipes.data_section import Source, bare_path
from ftune.report.run_folder import read_state
from ftune.rewards.base import RewardSource


class EvalRecipe(Recipe):
    """A recipe of `ftune eval`."""

    type: Literal["eval"] = "eval"
    """The command."""

    model: str
    """What is evaluated: a run folder, an adapter, or a model (folder, hub id, `.gguf` file, wheel)."""

    against: str = "base"
    """What it is compared with on the same rows: `base` (what it was tuned from), `none`, or another run, adapter or
    model."""

    rows: Annotated[Source | None, BeforeValidator(bare_path, json_schema_input_type=str | Source | None)] = None
    """Rows with the answers that are wanted; by default the run's own validation rows."""

    chat_template: str | None = None
    """A `.jinja` file or a shipped template (`chatml`) for chat rows; by default the model's own."""

    limit: Annotated[int, Field(ge=1)] | None = None
    """Take so many rows, drawn by the seed."""

    metrics: Literal["auto"] | list[union_of(Metric)] = "auto"  # type: ignore[valid-type]
    """What completions are scored by; `auto` takes what the answers can feed."""

    likelihood: bool = True
    """Measure loss, perplexity and token accuracy of the wanted answers too, and of label words which is likeliest."""

    forgetting: bool = True
    """Measure the perplexity of general text too, which rises where a model forgets."""

    harness: list[str] = Field(default_factory=list)
    """Tasks of lm-evaluation-harness to measure too, by name (`hellaswag`) or YAML file; needs `ftune[harness]`."""

    harness_limit: Annotated[int, Field(ge=1)] | None = None
    """Take the first so many rows of each of these tasks."""

    rewards: list[union_of(RewardSource)] = Field(default_factory=list)  # type: ignore[valid-type]
    """Score completions by these reward sources too: reward models, classifiers (as of toxicity), functions, rules."""

    judge: union_of(Judge) | None = None  # type: ignore[valid-type]
    """Who says which of two completions is better, for a win rate."""

    max_new_tokens: Annotated[int, Field(ge=0)] = 256
    """Longest completion in tokens; 0 completes nothing and measures likelihoods alone."""

    micro_batch_size: Annotated[int, Field(ge=1)] = 16
    """Rows that are completed at once; it does not change the result."""

    processes: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Processes that share the completions, each with the whole model; `auto` is one for each GPU, and one where
    there are none. They do not change the result."""

    samples: Annotated[int, Field(ge=0)] = 2
    """Rows shown below the table."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models compute; `auto` takes a GPU where there is one."""

    output: str | None = None
    """Folder of the results; by default `eval` in the run's folder."""

    @model_validator(mode="after")
    def _metrics_differ(self) -> Self:
        if self.metrics != "auto" and (problem := clash(self.metrics)):
            raise ValueError(f"metrics: {problem}")
        return self

    def faults(self) -> Iterator[tuple[Location, str]]:
        """A run that is not done; what nobody can compare, score or compute."""
        folder = expanded(self.model)
        if (state := read_state(folder)) and state != "done":
            yield ("model",), f"the run in '{self.model}' is {state}, not done; finish it with --resume"
        if problem := check_named(self.chat_template):
            yield ("chat_template",), problem
        if self.judge is not None and self.against == "none":
            yield ("judge",), "compares two models; name another one with 'against'"
        if self.harness and (problem := absent()):
            yield ("harness",), problem
        gpus = count_gpus() if self.device != "cpu" else 0
        if gpus and self.processes != "auto" and self.processes > gpus:
            yield ("processes",), f"{self.processes}, and each takes a GPU, of which there are {gpus}"
        if self.max_new_tokens == 0:
            for key in self.looks_at_completions:
                yield (key,), "looks at completions, and 'max_new_tokens: 0' makes none"

    @property
    def looks_at_completions(self) -> list[str]:
        """The keys that are of no use without completions."""
        wanted: dict[str, Any] = {"judge": self.judge, "rewards": self.rewards, "metrics": self.metrics != "auto"}
        return [key for key, value in wanted.items() if value]

    def execute(self, options: RunOptions) -> None:
        """Complete, score, compare; print the table and write it to the folder of results."""
        from ftune.recipes.runs.eval import run_eval

        run_eval(self)

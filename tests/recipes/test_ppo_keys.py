"""Every key of `ftune ppo` gets to where it is used, and what cannot be together is refused.

That the numbers of the algorithm do what they say there is shown in tests/ppo (test_update, test_loop).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftune.backends.base import Backend
from ftune.core.errors import ModelError, RecipeError
from ftune.core.say import Say
from ftune.data.formats.base import RowFormat
from ftune.peft.base import PeftMethod
from ftune.ppo.settings import Algorithm, Guard, Kl, Score
from ftune.recipes.ppo import PpoRecipe
from ftune.recipes.ppo_sections import PolicyModel
from ftune.rewards.base import RewardSource
from tests.conftest import chat_rows, write_rows
from tests.recipes.ppo_recipes import loaded, ppo_recipe
from tests.recipes.test_keys import COVERED, keys_of

Write = Callable[..., Path]

REACHES: dict[str, tuple[str, Callable[[Any], object], object]] = {
    "seed": ("7", lambda loop: loop.plan.seed, 7),
    "output_dir": ("elsewhere", lambda loop: loop.keeper.folder, Path("elsewhere")),
    "optim.learning_rate": ("3e-3", lambda loop: loop.peaks[0], 3e-3),
    "optim.betas": ("[0.8, 0.7]", lambda loop: loop.learner.optimizer.param_groups[0]["betas"], (0.8, 0.7)),
    "optim.eps": ("1e-7", lambda loop: loop.learner.optimizer.param_groups[0]["eps"], 1e-7),
    "optim.weight_decay": ("0.5", lambda loop: loop.learner.optimizer.param_groups[0]["weight_decay"], 0.5),
    "optim.max_grad_norm": ("9.0", lambda loop: loop.learner.max_grad_norm, 9.0),
    "schedule.iterations": ("77", lambda loop: loop.plan.iterations, 77),
    "schedule.warmup_iterations": ("5", lambda loop: loop.plan.warmup_iterations, 5),
    "schedule.type": ("cosine", lambda loop: loop.plan.schedule, "cosine"),
    "rollout.batch_size": ("12", lambda loop: loop.plan.batch_size, 12),
    "rollout.completions_per_prompt": ("3", lambda loop: loop.plan.completions_per_prompt, 3),
    "rollout.max_new_tokens": ("9", lambda loop: loop.rounds.sampling.max_new_tokens, 9),
    "rollout.temperature": ("0.7", lambda loop: (loop.rounds.sampling.temperature, loop.learner.inner.temperature),
                            (0.7, 0.7)),
    "rollout.top_k": ("11", lambda loop: loop.rounds.sampling.top_k, 11),
    "rollout.top_p": ("0.9", lambda loop: loop.rounds.sampling.top_p, 0.9),
    "rollout.micro_batch_size": ("5", lambda loop: loop.rounds.engine._micro_batch_size, 5),
    "value.detach": ("true", lambda loop: loop.learner.inner.detach_value, True),
    "value.learning_rate": ("0.25", lambda loop: loop.peaks[1], 0.25),
    "value.warmup_iterations": ("1", lambda loop: loop.plan.value_warmup_iterations, 1),
    "eval.every": ("4", lambda loop: loop.plan.eval_every, 4),
    "eval.completions_per_prompt": ("5", lambda loop: loop.plan.eval_completions, 5),
    "checkpoint.every": ("9", lambda loop: loop.plan.checkpoint_every, 9),
    "checkpoint.keep": ("5", lambda loop: loop.plan.checkpoints_kept, 5),
    "log.every": ("3", lambda loop: loop.plan.log_every, 3),
    "log.samples_every": ("6", lambda loop: loop.plan.samples_every, 6),
    "log.samples": ("4", lambda loop: loop.plan.samples, 4),
    "rewards": ("[{type: json_valid}]", lambda loop: loop.rounds.rewards.titles, ["json_valid"]),
    "gold": ("[{type: repetition}]", lambda loop: loop.rounds.gold and loop.rounds.gold.titles, ["repetition"]),
    "ptx.coefficient": ("0.4", lambda loop: loop.learner.ptx.coefficient, 0.4),
    "ptx.micro_batch_size": ("3", lambda loop: loop.learner.ptx.batch(0)[0].shape[0], 3),
    "ptx.max_length": ("9", lambda loop: loop.learner.ptx.batch(0)[0].shape[1], 9),
    "ptx.source": ("text.jsonl", lambda loop: loop.rounds.tokenizer.decode(loop.learner.ptx.batch(0)[0][0])[0], "B"),
    "ppo.activation_checkpointing": (
        "true", lambda loop: any(getattr(one, "gradient_checkpointing", False) for one in loop.learner.inner.modules()),
        True,
    ),
    "guard.target_kl": ("0.3", lambda loop: (loop.learner.target_kl, loop.guard.target_kl), (0.3, 0.3)),
    "guard.max_kl": ("3.0", lambda loop: loop.guard.max_kl, 3.0),
    "guard.patience": ("4", lambda loop: loop.guard.patience, 4),
    "guard.min_entropy": ("0.1", lambda loop: loop.guard.min_entropy, 0.1),
    "guard.keep_best": ("false", lambda loop: loop.guard.keep_best, False),
    "kl.coefficient": ("0.3", lambda loop: loop.kl.coefficient, 0.3),
    "kl.estimator": ("k3", lambda loop: loop.kl.estimator, "k3"),
    "kl.controller": ("adaptive", lambda loop: loop.kl.controller, "adaptive"),
    "kl.target": ("3.0", lambda loop: loop.kl.target, 3.0),
    "kl.horizon": ("99.0", lambda loop: loop.kl.horizon, 99.0),
    "score.normalize": ("scale", lambda loop: loop.score.rules().normalize, "scale"),
    "score.bias": ("0.5", lambda loop: loop.score.rules().bias, 0.5),
    "score.clip": ("2.0", lambda loop: loop.score.rules().clip, 2.0),
    "score.missing_eos": ("replace", lambda loop: loop.score.rules().missing_eos, "replace"),
    "score.missing_eos_value": ("3.0", lambda loop: loop.score.rules().missing_eos_value, 3.0),
    "ppo.epochs": ("3", lambda loop: loop.learner.settings.epochs, 3),
    "ppo.minibatch_size": ("6", lambda loop: loop.learner.settings.minibatch_size, 6),
    "ppo.micro_batch_size": ("2", lambda loop: (loop.learner.settings.micro_batch_size, loop.rounds.micro_batch_size),
                             (2, 8)),
    "ppo.gamma": ("0.9", lambda loop: loop.learner.settings.gamma, 0.9),
    "ppo.lam": ("0.8", lambda loop: loop.learner.settings.lam, 0.8),
    "ppo.clip_range": ("0.1", lambda loop: loop.learner.settings.clip_range, 0.1),
    "ppo.clip_range_high": ("0.3", lambda loop: loop.learner.settings.clip_range_high, 0.3),
    "ppo.dual_clip": ("3.0", lambda loop: loop.learner.settings.dual_clip, 3.0),
    "ppo.value_clip_range": ("0.4", lambda loop: loop.learner.settings.value_clip_range, 0.4),
    "ppo.value_coefficient": ("0.5", lambda loop: loop.learner.settings.value_coefficient, 0.5),
    "ppo.entropy_coefficient": ("0.01", lambda loop: loop.learner.settings.entropy_coefficient, 0.01),
    "ppo.whiten_advantages": ("false", lambda loop: loop.learner.settings.whiten_advantages, False),
    "ppo.whiten_rewards": ("true", lambda loop: loop.learner.settings.whiten_rewards, True),
    "ppo.truncated": ("mask", lambda loop: loop.learner.settings.truncated, "mask"),
    "ppo.max_ratio": ("5.0", lambda loop: loop.learner.settings.max_ratio, 5.0),
}  # fmt: skip


def loop_of(recipe: PpoRecipe) -> Any:
    """The loop as a run makes it, from prompts to optimiser."""
    from ftune.backends.ranks import Ranks
    from ftune.recipes.runs.ppo_asked import ask
    from ftune.recipes.runs.ppo_assembly import assemble
    from ftune.report.events import UnwrittenLog

    say = Say()
    return assemble(recipe, Path(recipe.output_dir), UnwrittenLog(), ask(recipe, say), Ranks(), say)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("keys")
    write_rows(place / "rows.jsonl", chat_rows(24))
    write_rows(place / "text.jsonl", [{"text": "Birds fly over red roofs and a small cat saw nine."}] * 4)
    return place


@pytest.fixture(scope="module")
def write(folder: Path, tiny_model: Path) -> Write:
    """Recipes of the tiny model whose rows lie in the module's folder."""

    def recipe(**sections: Any) -> Path:
        import yaml

        path = folder / "ppo.yaml"
        path.write_text(yaml.safe_dump({"model": {"path": str(tiny_model)}, **sections}), encoding="utf-8")
        return path

    return recipe


@pytest.fixture(scope="module")
def plain(write: Write) -> Any:
    return loop_of(
        loaded(ppo_recipe(write, data={"train": "rows.jsonl", "validation": 4}, ptx={"source": "rows.jsonl"}))
    )


@pytest.fixture(scope="module")
def changed(write: Write) -> Any:
    path = ppo_recipe(write, data={"train": "rows.jsonl", "validation": 4}, ptx={"source": "rows.jsonl"})
    return loop_of(loaded(path, *[f"{key}={value}" for key, (value, _, _) in REACHES.items()]))


@pytest.mark.parametrize("key", REACHES)
def test_a_key_gets_to_where_it_is_used(plain: Any, changed: Any, key: str) -> None:
    _, look, wanted = REACHES[key]
    assert look(changed) == wanted
    assert look(plain) != wanted


def test_other_optimisers_values_and_engines(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = ppo_recipe(write, rollout={"type": "continuous", "batch_size": 8, "memory_fraction": 0.1})
    loop = loop_of(loaded(path, "optim.optimizer=sgd", "value.type=adapter", "log.samples_every=never"))
    assert type(loop.learner.optimizer.optimizer).__name__ == "SGD"
    assert loop.learner.inner.value == "adapter"
    assert "continuous" in loop.rounds.engine.name
    assert (loop.plan.samples_every, loop.held_out, loop.learner.ptx) == (None, [], None)


def test_peft_memory_and_copies_of_full_fine_tuning(write: Write) -> None:
    path = ppo_recipe(write, peft="full", value={"type": "copy"}, memory="separate", optim={})
    copies = loaded(path)
    loop = loop_of(copies)
    actor = loop.learner.inner
    assert (actor.reference, actor.value, loop.peaks) == ("copy", "copy", pytest.approx([1e-6, 5e-6]))
    shared = loaded(ppo_recipe(write, peft={"type": "lora", "rank": 3}))
    assert (shared.shared, copies.shared) == (True, False)
    assert loop_of(shared).learner.inner.model.peft_config["default"].r == 3


def test_a_reward_model_stands_before_the_other_rewards(write: Write, tiny_model: Path) -> None:
    recipe = loaded(ppo_recipe(write), f"reward_model={tiny_model}")
    assert [source.title() for source in recipe.sources] == ["model", "length"]
    assert recipe.sources[0].path == str(tiny_model)  # type: ignore[attr-defined]


ELSEWHERE = {
    "reward_model", "model.adapter",  # tests/recipes/test_ppo_run.py
    "log.trackers",  # tests/report/test_trackers.py
    "optim.optimizer", "value.type", "rollout.type", "memory", "peft",  # above
    "rollout.memory_fraction",  # tests/ppo/test_rollout_contract.py
    "rollout.mode", "rollout.url", "rollout.group_port", "rollout.timeout_s", "rollout.gpu_memory_utilization",
    "rollout.weights",  # tests/ppo/test_rollout_vllm.py, test_graph.py
}  # fmt: skip
"""`data` is in tests/recipes/test_ppo_prompts.py, methods and rewards have tests of their own."""


def test_no_key_is_without_a_case() -> None:
    keys = set(keys_of(PpoRecipe, elsewhere=RowFormat | PeftMethod | RewardSource | Backend))
    inherited = {key for key in COVERED if key.startswith(("data.", "model.")) or key in ("extends", "type", "backend")}
    assert sorted(keys - REACHES.keys() - ELSEWHERE - inherited) == []
    for name, section in (("ppo", Algorithm), ("kl", Kl), ("guard", Guard), ("score", Score)):
        assert {f"{name}.{key}" for key in section.model_fields} <= REACHES.keys()


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "no reward": (["rewards=[]"], ["rewards", "--reward-model PATH"]),
    "weights of 0": (["rewards=[{type: contains, words: [a], weight: 0}]"], ["rewards", "'gold'"]),
    "a method of another kind": (["peft=ia3"], ["peft", "'lora' or 'full'", "ia3"]),
    "a shared base that trains": (["peft=full", "memory=shared"], ["memory", "'separate'"]),
    "a quantised model that trains": (["peft=full", "model.quantization=nf4"], ["model.quantization"]),
    "an adapter under a whole model": (["peft=full", "model.adapter=a"], ["model.adapter", "merge the adapter"]),
    "an adapter of the value without a base": (
        ["peft=full", "value.type=adapter"],
        ["value.type", "'trunk' or 'copy'"],
    ),
    "a copy of the value beside a base": (["value.type=copy"], ["value.type", "'trunk' or 'adapter'"]),
    "copies with LoRA": (["memory=separate"], ["memory", "'peft: full'"]),
    "dropout": (["peft={type: lora, dropout: 0.1}"], ["peft.dropout", "dropout 0"]),
    "a start that changes the base": (["peft={type: lora, init: pissa}"], ["peft", "init: default"]),
    "modules that train in full": (["peft={type: lora, modules_to_save: [lm_head]}"], ["peft", "modules_to_save"]),
    "LoRA+": (["peft={type: lora, loraplus_ratio: 4.0}"], ["peft", "loraplus_ratio"]),
    "settings beside an adapter's own": (["model.adapter=a", "peft={type: lora, rank: 3}"], ["peft", "remove 'peft'"]),
    "completions that do not share prompts": (["rollout.completions_per_prompt=3"], ["batch_size 8", "prompt 3"]),
    "minibatches that do not fit": (["ppo.minibatch_size=3", "ppo.micro_batch_size=3"], ["minibatch_size 3", "is 2"]),
    "micro-batches that do not fit": (["ppo.micro_batch_size=3"], ["minibatch_size 4", "micro_batch_size 3"]),
    "held-out prompts that are not there": (["eval.every=3"], ["eval", "data.validation: 16"]),
    "a target without a controller": (["kl.target=3.0"], ["'controller: adaptive'"]),
    "a coefficient that could turn round": (
        ["kl.controller=adaptive", "kl.horizon=1.6"],
        ["kl.horizon: 1.6", "one iteration of 8", "10000"],
    ),
    "a policy that is never trained": (["value.warmup_iterations=2"], ["value.warmup_iterations: 2 of 2 iterations"]),
    "an adaptive coefficient of 0": (["kl.controller=adaptive", "kl.coefficient=0"], ["coefficient", "0"]),
    "a bias that is subtracted again": (["score.normalize=zscore", "score.bias=1.0"], ["bias", "remove it"]),
    "a value that does nothing": (["score.missing_eos_value=2.0"], ["missing_eos_value", "subtract or replace"]),
    "a trunk that is not shared": (["value={type: adapter, detach: true}"], ["detach", "remove it"]),
    "betas of SGD": (["optim.optimizer=sgd", "optim.betas=[0.5, 0.5]"], ["betas", "remove them"]),
    "epsilon of Adafactor": (["optim.optimizer=adafactor", "optim.eps=1e-3"], ["eps", "remove it"]),
    "an adapter that is not there": (["peft=null", "model.adapter=nowhere"], ["model.adapter", "nowhere"]),
    "a reward model that is not there": (["reward_model=./nowhere"], ["reward_model", "nowhere"]),
    "an unknown key": (["ppo.clip_rang=0.1"], ["ppo.clip_rang", "clip_range"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_together_is_refused_with_key_and_way_out(write: Write, what: str) -> None:
    overrides, words = REFUSED[what]
    path = ppo_recipe(write, peft=None) if "peft=null" in overrides else ppo_recipe(write)
    with pytest.raises(RecipeError) as refused:
        loaded(path, *[override for override in overrides if override != "peft=null"])
    assert [word for word in words if word not in str(refused.value)] == []


def test_optimisers_without_betas_need_no_word_about_them(write: Write) -> None:
    assert loaded(ppo_recipe(write), "optim.optimizer=sgd").optim.optimizer == "sgd"


def test_an_adapter_in_place_of_the_model_is_told_where_it_goes(write: Write, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"is an adapter .*; or give its base here and 'model.adapter: "):
        loaded(ppo_recipe(write), f"model.path={tmp_path}")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_adapter_config_is_told_in_a_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"model\.adapter: .*adapter_config\.json is not what"):
        PolicyModel(path="any", adapter=str(tmp_path)).start("any")

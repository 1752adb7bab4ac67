"""`ftune ppo` from recipe to result, on the tiny model."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftune.models.fingerprint import base_fingerprint
from ftune.models.reward_facts import RewardFacts
from ftune.peft.lora import Lora
from ftune.report.events import read_events
from ftune.report.run_folder import read_state
from tests.conftest import Done, spawn
from tests.recipes.ppo_recipes import ppo_recipe

Write = Callable[..., Path]
Ftune = Callable[..., Done]

IDS = torch.arange(40).reshape(2, 20) % 37 + 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model is faster so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def steps(run: Path) -> list[dict[str, Any]]:
    """What the history of a run says of its iterations, but for what the machine decides."""
    measured = {"time", "seconds", "tokens_per_s", "rollout_tokens_per_s", "memory_gib"}
    history = [event for event in read_events(run / "events.jsonl") if event["kind"] in ("step", "eval")]
    return [{name: value for name, value in event.items() if name not in measured} for event in history]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    out: torch.Tensor = model.eval()(input_ids=IDS).logits
    return out


def base(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def reward_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model as `ftune rm` leaves it: an adapter on the policy's base, and a head that tells rows apart."""
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("rm") / "adapter"
    torch.manual_seed(3)
    model = Lora(rank=4).wrap(AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1))
    with torch.no_grad():
        for value in (value for value in model.parameters() if value.requires_grad):
            value.add_(0.1 * torch.randn(value.shape))
    model.save_pretrained(str(folder))
    RewardFacts("scalar", str(tiny_model), base_fingerprint(str(tiny_model))).write(folder)
    return folder


@pytest.fixture(scope="module")
def reward_model(tiny_model: Path, reward_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a whole model."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tmp_path_factory.mktemp("rm") / "model"
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    PeftModel.from_pretrained(model, str(reward_adapter)).merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


# -- the run -----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_policy_that_peft_loads(recipe: Write, ftune: Ftune, tmp_path: Path, tiny_model: Path) -> None:
    from peft import PeftModel

    before = bytes_of(tiny_model)
    path = ppo_recipe(
        recipe, data={"train": "rows.jsonl", "validation": 4, "max_length": 128}, gold=[{"type": "repetition"}],
        guard={"keep_best": False},
    )  # fmt: skip
    done = ftune("ppo", path)
    assert done.code == 0, done.err
    run = tmp_path / "runs/tiny"
    assert {file.name for file in run.iterdir() if not file.name.startswith(".")} == {
        "README.md", "adapter", "checkpoint-1", "checkpoint-2", "curves.png", "data.json", "environment.json",
        "events.jsonl", "ftune.json", "logs", "recipe.resolved.json", "recipe.yaml", "report.html", "samples.jsonl",
        "value",
    }  # fmt: skip
    assert read_state(run) == "done"
    assert bytes_of(tiny_model) == before
    policy = PeftModel.from_pretrained(base(tiny_model), str(run / "adapter"))
    trained = load_file(run / "checkpoint-2/trainable.safetensors")
    for name, value in policy.named_parameters():
        if ".lora_" in name:
            assert torch.equal(value, trained[f"model.{name}"]), name
    assert not torch.allclose(logits(policy), logits(base(tiny_model)), atol=1e-3)
    assert set(load_file(run / "value/value_head.safetensors")) == {"weight", "bias"}
    history = steps(run)
    assert [(event["kind"], event["step"]) for event in history] == [("eval", 0), ("step", 1), ("step", 2), ("eval", 2)]
    assert [history[0]["kl"], history[1]["kl"]] == [0, 0]
    assert history[2]["kl"] != 0
    assert {"reward/length", "gold/repetition"} <= history[1].keys()
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert {sample["when"] for sample in samples} == {"training", "held-out"}
    card = (run / "README.md").read_text()
    assert "held-out score before" in card
    assert "result: runs/tiny/adapter" in done.out


def test_a_reward_adapter_goes_onto_the_shared_base(
    recipe: Write, ftune: Ftune, tmp_path: Path, reward_adapter: Path, reward_model: Path
) -> None:
    """Its scores are those of the whole model that it was merged into."""
    path = ppo_recipe(recipe, rewards=None, schedule={"iterations": 1})
    for name, model in (("shared", reward_adapter), ("separate", reward_model)):
        done = ftune("ppo", path, "--reward-model", model, f"output_dir=runs/{name}")
        assert done.code == 0, done.err
    shared, separate = (
        [json.loads(line) for line in (tmp_path / f"runs/{name}/samples.jsonl").read_text().splitlines()]
        for name in ("shared", "separate")
    )
    assert [one["completion"] for one in shared] == [one["completion"] for one in separate]
    assert [one["score"] for one in shared] == pytest.approx([one["score"] for one in separate], abs=1e-4)
    assert len({one["score"] for one in shared}) > 1
    assert set(load_file(tmp_path / "runs/shared/adapter/adapter_model.safetensors")) == set(
        load_file(tmp_path / "runs/separate/adapter/adapter_model.safetensors")
    )


def test_full_fine_tuning_has_copies_and_leaves_a_whole_model(
    recipe: Write, ftune: Ftune, tmp_path: Path, tiny_model: Path
) -> None:
    from transformers import AutoModelForCausalLM

    path = ppo_recipe(recipe, peft="full", memory="separate", value={"type": "copy"}, optim={"learning_rate": 1e-3})
    done = ftune("ppo", path)
    assert done.code == 0, done.err
    run = tmp_path / "runs/tiny"
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert not torch.allclose(logits(model), logits(base(tiny_model)), atol=1e-3)
    first, second = steps(run)
    assert first["kl"] == 0 != second["kl"]
    assert (run / "value/value").is_dir()


def test_a_policy_that_starts_from_an_adapter_keeps_it_as_the_reference(
    recipe: Write, ftune: Ftune, tmp_path: Path, tiny_model: Path
) -> None:
    from peft import PeftModel

    start = tmp_path / "start"
    torch.manual_seed(5)
    model = Lora(rank=2).wrap(base(tiny_model))
    with torch.no_grad():
        for value in (value for value in model.parameters() if value.requires_grad):
            value.add_(0.2 * torch.randn(value.shape))
    model.save_pretrained(str(start))
    before = bytes_of(start)
    path = ppo_recipe(recipe, model={"path": str(tiny_model), "adapter": str(start)}, peft=None)
    done = ftune("ppo", path)
    assert done.code == 0, done.err
    assert "reference: a frozen copy of the adapter" in done.err
    run = tmp_path / "runs/tiny"
    first, second = steps(run)
    assert first["kl"] == 0 != second["kl"]
    assert bytes_of(start) == before
    trained = PeftModel.from_pretrained(base(tiny_model), str(run / "adapter"))
    assert trained.peft_config["default"].r == 2
    assert not torch.allclose(logits(trained), logits(model), atol=1e-4)


# -- rewards that fail -------------------------------------------------------------------------------------------------

FAULTS = {
    "raises": ("raise KeyError('no such word')", "KeyError: 'no such word'"),
    "NaN": ("scores[1] = float('nan')", "returned nan (float); a reward is a finite number"),
    "too few": ("scores.pop()", "returned 7 numbers for 8 samples"),
}


@pytest.mark.parametrize(
    "fault", ["NaN", *(pytest.param(each, marks=pytest.mark.slow) for each in ("raises", "too few"))]
)
def test_a_reward_function_that_fails_loses_nothing(recipe: Write, ftune: Ftune, tmp_path: Path, fault: str) -> None:
    """The third call is that of the second iteration; the first tries the function before any rollout."""
    code, words = FAULTS[fault]
    function = tmp_path / "mine.py"
    good = "def score(completions, **columns):\n    scores = [float(len(str(one))) for one in completions]\n"
    function.write_text(
        f"calls = 0\n{good}    global calls\n    calls += 1\n    if calls == 3:\n        {code}\n    return scores\n"
    )
    path = ppo_recipe(
        recipe, rewards=[{"type": "function", "function": "mine.py:score"}], checkpoint={"every": "never"},
        schedule={"iterations": 3},
    )  # fmt: skip
    done = ftune("ppo", path)
    assert done.code == 2
    message = done.err.strip().splitlines()[-1]
    assert "reward 'function': " in message
    assert words in message
    assert "rows.jsonl:" in message
    assert "Traceback" not in done.err
    run = tmp_path / "runs/tiny"
    assert read_state(run) == "failed"
    assert (run / "checkpoint-1").is_dir()
    assert not (run / "adapter").exists()
    function.write_text(f"{good}    return scores\n")
    done = ftune("ppo", path, "--resume")
    assert done.code == 0, done.err
    assert "resumed from iteration 1" in done.err
    assert "mine.py:score' has changed since the checkpoint" in " ".join(done.err.split())
    done = ftune("ppo", path, "output_dir=runs/whole")
    assert done.code == 0
    assert "has changed" not in done.err
    assert steps(run) == steps(tmp_path / "runs/whole")


# -- what is refused before the first rollout --------------------------------------------------------------------------


def test_a_reward_model_is_no_policy(recipe: Write, ftune: Ftune, tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(tiny_model)
    Lora(rank=2).wrap(base).save_pretrained(str(tmp_path / "rm"))
    path = ppo_recipe(recipe, model={"path": str(tiny_model), "adapter": str(tmp_path / "rm")}, peft=None)
    done = ftune("ppo", path)
    assert done.code == 2
    assert "is a reward model or a classifier, which writes no text; give the result of 'ftune sft'" in done.err


@pytest.mark.parametrize("size", [32, 48], ids=["of the same shape", "of another shape"])
def test_an_adapter_of_another_base_is_refused(
    recipe: Write, ftune: Ftune, tmp_path: Path, tiny_model: Path, size: int
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_model, hidden_size=size)).save_pretrained(tmp_path / "base")
    Lora(rank=2).wrap(LlamaForCausalLM.from_pretrained(tmp_path / "base")).save_pretrained(str(tmp_path / "other"))
    path = ppo_recipe(recipe, model={"path": str(tiny_model), "adapter": str(tmp_path / "other")}, peft=None)
    done = ftune("ppo", path)
    assert done.code == 2
    assert f"model.adapter: '{tmp_path / 'other'}' was trained on '{tmp_path / 'base'}'" in done.err
    shutil.rmtree(tmp_path / "base")  # now only the shapes can tell
    done = ftune("ppo", path, "--resume")
    assert done.code == (0 if size == 32 else 2)
    assert size == 32 or "cannot be put on this base" in done.err
    assert "Traceback" not in done.err


def test_a_reward_adapter_of_another_base_is_refused(
    recipe: Write, ftune: Ftune, tmp_path: Path, tiny_model: Path, reward_adapter: Path
) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(reward_adapter, strange)
    RewardFacts("scalar", str(tiny_model), "0" * 32).write(strange)
    done = ftune("ppo", ppo_recipe(recipe, rewards=None), "--reward-model", strange)
    assert done.code == 2
    assert "reward 'model': " in done.err
    assert "another base" in done.err
    assert "iteration 1/" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"data": {"train": "rows.jsonl", "max_length": 3}}, ["all 24 rows were dropped", "too long"]),
        ({"rollout": {"type": "generate", "batch_size": 8, "max_new_tokens": 256}}, ["rollout.max_new_tokens", "256"]),
        ({"rewards": [{"type": "function", "function": "mine.py:score"}]}, ["mine.py"]),
        ({"rewards": [{"type": "numeric", "column": "result"}]}, ["rows.jsonl:", "result"]),
    ],
    ids=["no prompt fits", "no room for a prompt", "no such function", "no such column"],
)
def test_bad_input_is_told_in_a_line_before_anything_is_generated(
    recipe: Write, ftune: Ftune, sections: dict[str, Any], words: list[str]
) -> None:
    done = ftune("ppo", ppo_recipe(recipe, **sections))
    assert done.code == 2
    assert [word for word in words if word not in done.err] == []
    assert "Traceback" not in done.err
    assert "rollouts:" not in done.err


def test_prompts_that_changed_are_not_resumed_with(recipe: Write, ftune: Ftune, tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").write_text('{"prompt": "cat"}\n')
    path = ppo_recipe(recipe, data={"train": "rows.jsonl", "validation": "held.jsonl", "max_length": 128})
    assert ftune("ppo", path).code == 0
    run = tmp_path / "runs/tiny"
    assert "is finished" in ftune("ppo", path, "--resume").out
    state = json.loads((run / "ftune.json").read_text())
    (run / "ftune.json").write_text(json.dumps({**state, "state": "stopped"}))
    (tmp_path / "held.jsonl").write_text('{"prompt": "mat"}\n')
    done = ftune("ppo", path, "--resume")
    assert done.code == 2
    assert "the held-out prompts are not those of the checkpoint" in done.err
    rows = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(rows[1:]))
    done = ftune("ppo", path, "--resume")
    assert done.code == 2
    assert "the prompts are not those of the checkpoint" in done.err


# -- a signal ----------------------------------------------------------------------------------------------------------


def test_a_signal_saves_and_exits_75_and_the_run_goes_on(recipe: Write, ftune: Ftune, tmp_path: Path) -> None:
    path = ppo_recipe(
        recipe, schedule={"iterations": 500}, checkpoint={"every": "never"}, log={"samples_every": "never"}
    )
    run = tmp_path / "runs/tiny"
    process = spawn("ppo", path, cwd=tmp_path, OMP_NUM_THREADS="1")
    deadline = time.monotonic() + 240
    while not (run / "events.jsonl").exists() or '"kind": "step"' not in (run / "events.jsonl").read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "stopped by SIGTERM at iteration" in err
    assert f"ftune ppo {path} --resume" in err
    assert read_state(run) == "stopped"
    stopped_at = steps(run)[-1]["step"]
    assert (run / f"checkpoint-{stopped_at}").is_dir()
    assert not (run / "adapter").exists()
    done = ftune("ppo", path, "--resume", f"schedule.iterations={stopped_at + 1}")
    assert done.code == 0, done.err
    assert f"resumed from iteration {stopped_at}" in done.err
    assert [event["step"] for event in steps(run)] == [*range(1, stopped_at + 2)]

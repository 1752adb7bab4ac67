"""Rows that are scored end to end have the scores and gradients of padded ones, and a run trains the same on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from ftune.report.events import read_events
from ftune.speed.documents import NAME
from ftune.trainers.fed import Feeding
from ftune.trainers.head import put_head
from ftune.trainers.judged import EndToEnd, Padding, PairCollator
from ftune.trainers.pairwise import pair_losses
from ftune.trainers.scoring import logits_of, score_rows
from ftune.trainers.speed import PROBED_TOKENS, Speed, Wanted, at_speed
from ftune.trainers.speed_tasks import SCORES
from tests.conftest import WORDS, Done, write_rows
from tests.trainers.test_packing_attention import GROUPED, ROWS
from tests.trainers.test_rm import pairs, texts

PAD = 0
HEADS = GROUPED | {"head_dim": 8}
MODELS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**GROUPED),
    "qwen2": lambda: Qwen2Config(**GROUPED),
    "qwen3": lambda: Qwen3Config(**HEADS),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=4),
    "gemma": lambda: GemmaConfig(**HEADS),
    "gpt2": lambda: GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2),
}
METHODS = [(name, method) for name in MODELS for method in ("full", "lora") if name != "gpt2"]


def model_of(config: PretrainedConfig, method: str = "full", outputs: int = 1) -> Any:
    torch.manual_seed(0)
    config.pad_token_id, config.num_labels = PAD, outputs
    model = AutoModelForSequenceClassification.from_config(config)
    put_head(model, new=True, seed=1)
    if method == "lora":
        task = TaskType.SEQ_CLS  # which trains the head too
        model = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type=task))
    return model.eval()


def example(answers: list[list[int]], better: list[int], worse: list[int]) -> dict[str, Any]:
    return {
        "input_ids": [token for answer in answers for token in answer],
        "lengths": [len(answer) for answer in answers],
        "better": better,
        "worse": worse,
        "margins": [0.0] * len(better),
    }


EXAMPLES = [example(ROWS[:2], [0], [1]), example([ROWS[2], ROWS[0], ROWS[1]], [0, 0, 1], [1, 2, 2])]


def measured(model: Any, laid: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of pairs, and its gradients."""
    model.zero_grad()
    batch = PairCollator(laid, with_margins=False)(EXAMPLES)
    scores = logits_of(model, batch).squeeze(-1)
    loss = pair_losses(scores[batch["better"]], scores[batch["worse"]], batch["margins"]).sum()
    loss.backward()
    return loss.item(), {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize(("name", "method"), [*METHODS, ("gpt2", "full")])
def test_scores_and_gradients_are_those_of_padded_rows(name: str, method: str) -> None:
    model = model_of(MODELS[name](), method)
    loss, slopes = measured(model, Padding(PAD))
    assert "score" in " ".join(slopes)
    with at_speed(model, ROWS, torch.float32, task=SCORES) as speed:
        assert (speed.attention, speed.fused_loss, speed.reasons) == (NAME, False, {})
        assert speed.folded_lora == (0 if method == "full" else 4 * model.config.num_hidden_layers)
        for laid in (EndToEnd(), EndToEnd(longest=60, rounded=True)):
            found, ours = measured(model, laid)
            assert found == pytest.approx(loss, rel=1e-5)
            assert ours.keys() == slopes.keys()
            for key, slope in slopes.items():
                assert (ours[key] - slope).norm() <= 1e-5 * slope.norm() + 1e-8, (laid, key)
    assert measured(model, Padding(PAD))[0] == loss  # it is as it was


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_held_out_rows_are_scored_end_to_end_too(at_once: int) -> None:
    model = model_of(MODELS["llama"](), outputs=3)
    plain = score_rows(model, ROWS, Padding(PAD), at_once=at_once, dtype=torch.float32)
    with at_speed(model, ROWS, torch.float32, task=SCORES):
        found = score_rows(model, ROWS, EndToEnd(), at_once=at_once, dtype=torch.float32)
    assert found.shape == (3, 3)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-7)


def refused(model: Any) -> Speed:
    with at_speed(model, ROWS, torch.float32, task=SCORES) as speed:
        return speed


def test_what_is_not_exact_stays_padded_and_says_why() -> None:
    prompt = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    speed = refused(get_peft_model(model_of(MODELS["llama"]()), prompt))
    assert not speed.attention
    assert speed.words() == "batches with padding or masks: the method puts virtual tokens before each row"
    warmer = model_of(MODELS["llama"]())
    honest = warmer.forward

    def forward(*args: Any, **inputs: Any) -> Any:
        out = honest(*args, **inputs)
        out.logits = out.logits * 1.1
        return out

    warmer.forward = forward
    assert refused(warmer).reasons == {
        "packed_attention": "the model's score of a row is more than its head on the last token"
    }


def test_a_row_that_is_cut_at_a_padding_token_is_a_row_like_others() -> None:
    model = model_of(MODELS["llama"](), "lora")
    rows = [[*ROWS[0], *ROWS[1], *ROWS[2]], ROWS[0]]
    assert len(rows[0]) > PROBED_TOKENS
    rows[0][PROBED_TOKENS - 2 : PROBED_TOKENS] = [PAD, PAD]
    with at_speed(model, rows, torch.float32, task=SCORES) as speed:
        assert (speed.attention, speed.reasons) == (NAME, {})


def test_what_needs_flat_batches_says_so_without_them() -> None:
    model = model_of(MODELS["llama"](), "lora")
    with at_speed(model, ROWS, torch.float32, task=SCORES, wanted=Wanted(packed_attention=False)) as speed:
        assert speed.words() == "adapters beside their layers: it is for flat batches with a loss of their own"


# -- runs --------------------------------------------------------------------------------------------------------------

ALL_OFF = {"packed_attention": "off", "folded_lora": "off", "compiled_layers": "off"}
RANKED = [
    {"prompt": f"{number}: say it", "answers": [{"answer": f"{word} {number}", "rank": rank} for rank, word in
     enumerate(WORDS[: 3 + number % 2])]} for number in range(24)
]  # fmt: skip
KINDS: dict[str, Any] = {
    "pairs": (pairs(24), {}),
    "rankings": (RANKED, {}),
    "classes": (texts(24), {"head": {"type": "classifier", "positive_class": "good"}}),
}


def told(folder: Path) -> list[dict[str, Any]]:
    """What was learned, of steps and of held-out rows."""
    kept = ("step", "loss", "grad_norm", "accuracy", "margin", "answers", "rows", "tokens", "f1")
    events = [event for event in read_events(folder / "events.jsonl") if event["kind"] in ("step", "eval")]
    return [{name: event[name] for name in kept if name in event} for event in events]


def speed_of(folder: Path) -> dict[str, Any]:
    (event,) = [event for event in read_events(folder / "events.jsonl") if event["kind"] == "speed"]
    return event


@pytest.fixture
def run(recipe: Callable[..., Path], ftune: Callable[..., Done], tmp_path: Path) -> Callable[..., Path]:
    """Runs `ftune rm` on rows of a kind; gives the run's folder."""

    def of(name: str, kind: str, *words: str, **sections: Any) -> Path:
        rows, more = KINDS[kind]
        write_rows(tmp_path / "judged.jsonl", rows)
        path = recipe(
            type="rm",
            data={"train": "judged.jsonl", "validation": 6, "max_length": 128},
            eval={"every": 2},
            **{"schedule": {"max_steps": 6}, **more, **sections},
        )
        done = ftune("rm", path, f"output_dir=runs/{name}", *words)
        assert done.code == 0, done.err
        return tmp_path / "runs" / name

    return of


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert len(one) == len(other) > 6
    for left, right in zip(one, other, strict=True):
        assert left == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in right.items()}


@pytest.mark.parametrize("kind", ["pairs", "rankings", pytest.param("classes", marks=pytest.mark.slow)])
def test_a_run_learns_the_same(kind: str, run: Callable[..., Path]) -> None:
    fast, plain = run("fast", kind), run("plain", kind, speed=ALL_OFF)
    assert_same(told(fast), told(plain))
    assert (speed_of(fast)["attention"], speed_of(plain)["attention"]) == (NAME, None)
    assert speed_of(fast)["folded_lora"] > 0 == speed_of(plain)["folded_lora"]
    assert speed_of(fast)["fused_loss"] is False


@pytest.mark.parametrize(("key", "gone"), [("packed_attention", "attention"), ("folded_lora", "folded_lora")])
def test_each_part_can_be_switched_off(key: str, gone: str, run: Callable[..., Path]) -> None:
    speed = speed_of(run("part", "pairs", f"speed.{key}=off", "schedule.max_steps=1"))
    assert not speed[gone]
    assert set(speed["off"]) == ({"folded_lora"} if key == "packed_attention" else set())  # which needs it
    assert bool(speed["attention"]) == (key != "packed_attention")


@pytest.mark.parametrize(
    "kind", [pytest.param("pairs", marks=pytest.mark.slow), "rankings", pytest.param("classes", marks=pytest.mark.slow)]
)
def test_a_step_cut_anew_and_read_late_is_the_same_step(
    kind: str, run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "batch={micro_batch_size: 1, gradient_accumulation_steps: 4}"
    plain = run("plain", kind, words)
    late = Feeding(capacity=100, ahead=True, late=True)
    monkeypatch.setattr("ftune.trainers.rm.feeding_of", lambda trainer, around, rows: late)
    fed = run("fed", kind, words)
    assert speed_of(fed)["micro_batch_tokens"] == 100
    assert_same(told(fed), told(plain))


def test_the_longest_example_has_each_answer_once(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def looking(trainer: Any, around: Any, rows: Any) -> None:
        seen.append((rows.longest, max(len(rows[number]["input_ids"]) for number in range(len(rows)))))

    monkeypatch.setattr("ftune.trainers.rm.feeding_of", looking)
    for kind in KINDS:
        run(kind, kind, "schedule.max_steps=1", "speed.folded_lora=off")
    assert len(seen) == 3
    assert all(longest == exact for longest, exact in seen)

"""Reward models: pooled at the true last token, on a shared base or alone, normalised, and read as in training."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from ftune.core.errors import ModelError, RewardError
from ftune.data.template import choose_template
from ftune.data.tokenize import RowTokenizer
from ftune.models.fingerprint import base_fingerprint
from ftune.models.reward_facts import RewardFacts
from ftune.rewards.base import Surroundings
from ftune.rewards.classifier import Classifier
from ftune.rewards.classifiers.forward import logits_of
from ftune.rewards.model import RewardModel
from tests.rewards.conftest import chat, said, text


def score(
    folder: Path | str, samples: object = None, around: Surroundings | None = None, **keys: object
) -> list[float]:
    """The scores of a model."""
    source = RewardModel.model_validate({"path": str(folder), **keys})
    scored = source.open(around or Surroundings())(samples or said("the cat", "sat on the mat", ""))  # type: ignore[arg-type]
    return [float(value) for value in scored if value is not None]


def test_a_row_that_ends_with_the_pad_token_is_read_at_its_end(scalar: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(scalar).eval()
    eos = AutoTokenizer.from_pretrained(scalar).eos_token_id
    assert model.config.pad_token_id == eos
    rows = [[7, 8, 9, 10, eos], [7, 8, eos], [7, eos, eos], [eos]]
    with torch.no_grad():
        ends = [model.score(model.model(torch.tensor([row])).last_hidden_state[0, -1])[0].item() for row in rows]
        theirs = model(torch.tensor([rows[0]])).logits.item()
    assert logits_of(model, eos)(rows)[:, 0].tolist() == pytest.approx(ends, abs=1e-5)
    assert abs(theirs - ends[0]) > 1e-3  # transformers skips the end: the trap


def test_rows_are_those_that_training_makes(scalar: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(scalar)
    model = AutoModelForSequenceClassification.from_pretrained(scalar).eval()
    encoder = RowTokenizer(tokenizer, choose_template(tokenizer))
    samples = [chat("the cat", "sat <|im_end|> on"), text("the cat ", "sat"), chat("a", "")]
    rows = [encoder.encode(sample.example).input_ids for sample in samples]
    assert rows[1][-1] == tokenizer.eos_token_id
    assert score(scalar, samples) == pytest.approx(
        logits_of(model, tokenizer.pad_token_id)(rows)[:, 0].tolist(), abs=1e-5
    )


def test_an_adapter_scores_as_the_model_that_was_saved(adapter: Path, tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    model = PeftModel.from_pretrained(base, str(adapter / "adapter")).merge_and_unload().eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = RowTokenizer(tokenizer, choose_template(tokenizer)).encode(chat("the cat", "sat").example).input_ids
    with torch.no_grad():
        wanted = model.score(model.model(torch.tensor([ids])).last_hidden_state[0, -1]).item()
    for folder in (adapter, adapter / "adapter"):
        assert score(folder, [chat("the cat", "sat")], normalize=False) == pytest.approx([wanted], abs=1e-4)


def test_an_adapter_may_come_from_the_hub(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--org--rm"
    shutil.copytree(adapter / "adapter", cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert score("org/rm") == score(adapter)
    with pytest.raises(ModelError, match="'org/none' is not in the cache"):
        score("org/none")


def test_an_adapter_of_virtual_tokens_scores_as_transformers_does_without_padding(
    tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from ftune.peft.prompt import Prompt

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    torch.manual_seed(0)
    method = Prompt(init="random", virtual_tokens=3)
    model = method.wrap(base).eval()
    method.export(model, tmp_path)
    tokenizer.save_pretrained(tmp_path)
    samples = said("the cat", "sat on the mat and saw nine birds")
    encoder = RowTokenizer(tokenizer, choose_template(tokenizer))
    with torch.no_grad():
        wanted = [
            model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits.item()
            for ids in (encoder.encode(sample.example).input_ids for sample in samples)
        ]
    assert score(tmp_path, samples) == pytest.approx(wanted, abs=1e-4)


@dataclass
class Shared:
    """A shared base that says what is put on it."""

    located: str
    fingerprint: str
    refuses: bool = False
    quantized: bool = False
    folders: list[str] = field(default_factory=list)

    def add_reward_adapter(self, folder: str) -> Callable[[list[list[int]]], torch.Tensor]:
        """Scores that are the rows' lengths."""
        if self.refuses:
            raise ModelError("not this one")
        self.folders.append(folder)
        return lambda rows: torch.tensor([[float(len(row))] for row in rows])


def test_an_adapter_of_the_same_base_goes_on_the_shared_one(adapter: Path, tiny_model: Path) -> None:
    shared = Shared(str(tiny_model), base_fingerprint(str(tiny_model)))
    around = Surroundings(shared=shared, micro_batch_size=2)
    samples = said("the cat", "sat on the mat and saw", "")
    lengths = score(adapter, samples, around, normalize=False)
    assert shared.folders == [str(adapter / "adapter")]
    assert lengths[1] > lengths[0] > lengths[2] > 0
    assert score(adapter, samples, around) == pytest.approx([(length - 0.5) / 2 for length in lengths])
    score(adapter, samples, around, share_base="never")
    assert len(shared.folders) == 2


def test_a_base_in_another_precision_than_in_training_is_said(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    told: list[str] = []
    whole, quantized = (
        Surroundings(
            shared=Shared(str(tiny_model), base_fingerprint(str(tiny_model)), quantized=here), remark=told.append
        )
        for here in (False, True)
    )
    score(adapter, around=whole)
    assert told == []
    score(adapter, around=quantized)
    assert "was trained on whole weights and is on quantised ones here" in told.pop()
    shutil.copytree(adapter, tmp_path / "nf4")
    facts = json.loads((adapter / "adapter/reward_model.json").read_text()) | {"quantized": True}
    RewardFacts(**facts).write(tmp_path / "nf4/adapter")
    score(tmp_path / "nf4", around=quantized)
    assert told == []
    for around, share in ((whole, "auto"), (quantized, "never")):
        score(tmp_path / "nf4", around=around, share_base=share)
        assert "was trained on quantised weights and is on whole ones here" in told.pop()


def test_the_policys_base_gives_the_scores_of_a_base_of_its_own(adapter: Path, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    from ftune.peft.lora import Lora
    from ftune.ppo.build import build
    from ftune.ppo.reward_adapter import PolicyBase

    policy = build(Lora(rank=2).wrap(AutoModelForCausalLM.from_pretrained(tiny_model)))
    shared = PolicyBase(policy, str(tiny_model), base_fingerprint(str(tiny_model)), micro_batch_size=2)
    samples = said("the cat", "sat on the mat and saw nine birds", "", "<|im_end|>")
    together = score(adapter, samples, Surroundings(shared=shared), share_base="always")
    assert together == pytest.approx(score(adapter, samples), abs=1e-5)


def test_an_adapter_that_cannot_share_is_loaded_alone_unless_it_must(
    adapter: Path, scalar: Path, tiny_model: Path
) -> None:
    same = base_fingerprint(str(tiny_model))
    alone = score(adapter)
    told: list[str] = []
    refusing = Surroundings(shared=Shared(str(tiny_model), same, refuses=True), remark=told.append)
    assert score(adapter, around=refusing) == pytest.approx(alone)
    assert "not this one" in told[0]
    other = Surroundings(shared=Shared("elsewhere", "other"), remark=told.append)
    assert score(adapter, around=other) == pytest.approx(alone)
    assert "on a base of its own: it was trained on another base" in told.pop()
    assert score(adapter, around=other, share_base="never") == pytest.approx(alone)
    assert len(told) == 1
    for folder, around, why in [
        (adapter, Surroundings(), "not shared"),
        (adapter, other, "another base"),
        (adapter, refusing, "not this one"),
        (scalar, other, "whole model"),
    ]:
        with pytest.raises(ModelError, match=f"share_base: .*{why}"):
            score(folder, around=around, share_base="always")


def test_an_adapter_whose_base_has_changed_is_refused(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter / "adapter", tmp_path / "adapter")
    file = tmp_path / "adapter" / "reward_model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_fingerprint": "0"}))
    with pytest.raises(ModelError, match="adapter of another base"):
        score(tmp_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [({"mean": "high"}, "mean: "), ({"kind": "judge"}, "kind: "), ({"depth": 3}, "depth"), (None, "JSON")],
)
def test_facts_that_are_not_those_of_a_run_are_told(
    adapter: Path, tmp_path: Path, change: dict[str, object] | None, why: str
) -> None:
    shutil.copytree(adapter / "adapter", tmp_path / "adapter")
    file = tmp_path / "adapter" / "reward_model.json"
    file.write_text("{" if change is None else json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=rf"reward_model\.json: is not what 'ftune rm' writes \(.*{why}"):
        score(tmp_path)


def test_scores_are_normalised_where_mean_and_deviation_are_known(adapter: Path, scalar: Path) -> None:
    raw = score(adapter, normalize=False)
    assert score(adapter) == score(adapter, normalize=True) == pytest.approx([(value - 0.5) / 2 for value in raw])
    assert score(scalar) == score(scalar, normalize=False)
    with pytest.raises(ModelError, match=r"normalize: .*validation rows"):
        score(scalar, normalize=True)


def test_the_reward_is_the_logit_of_the_positive_class(classes: Path, pad_is_eos: Callable[..., Path]) -> None:
    facts = RewardFacts(
        "classifier", "x", "y", labels=["bad", "fair", "good"], positive_class="good", mean=1.0, std=2.0
    )
    own = pad_is_eos(["bad", "fair", "good"], facts)
    samples = said("the cat", "sat on the mat")
    bad, good = (
        Classifier(path=str(own), label=label, transform="logit").open(Surroundings())(samples)
        for label in ("bad", "good")
    )
    assert score(own, samples, normalize=False) == good
    assert score(own, samples) == pytest.approx([(value - 1) / 2 for value in good if value is not None])
    assert score(own, samples, positive_class="bad") == bad != good  # mean and deviation are those of another class
    assert score(classes, positive_class="good") != score(classes, positive_class="bad")
    with pytest.raises(ModelError, match="normalize"):
        score(own, positive_class="bad", normalize=True)
    with pytest.raises(ModelError, match=r"positive_class: .*bad, fair, good"):
        score(classes)
    with pytest.raises(ModelError, match="did you mean 'good'"):
        score(classes, positive_class="godo")


def test_a_classifier_of_texts_reads_the_completion_alone(pad_is_eos: Callable[..., Path]) -> None:
    facts = RewardFacts("classifier", "x", "y", labels=["bad", "good"], positive_class="good")
    folder, told = pad_is_eos(["bad", "good"], facts), list[str]()
    samples = [chat("the cat", "sat"), chat("nine birds", "sat"), chat("the cat", "fly")]
    around = Surroundings(remark=told.append)
    first, second, third = score(folder, samples, around)
    assert first == pytest.approx(second)
    assert first != pytest.approx(third)
    logits = Classifier(path=str(folder), label="good", transform="logit").open(around)(samples)
    assert [first, second, third] == pytest.approx(logits)
    assert told == []


def test_one_score_has_no_classes(scalar: Path) -> None:
    with pytest.raises(ModelError, match=r"positive_class: .*remove"):
        score(scalar, positive_class="good")


def test_a_language_model_is_no_reward_model(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"no sequence classifier: it has no score\.weight"):
        score(tiny_model)


def test_a_long_row_loses_the_beginning_of_its_prompt_and_that_is_said_once(
    pad_is_eos: Callable[..., Path],
) -> None:
    short = pad_is_eos(["score"], max_position_embeddings=24)
    told: list[str] = []
    source = RewardModel(path=str(short)).open(Surroundings(remark=told.append))
    long = [chat("the cat sat on a mat " * times, "nine birds") for times in (5, 7)]
    scores = source([*long, chat("a", "b")])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)  # what is left of both is the same
    source(long)
    assert len(told) == 1
    assert "24 tokens" in told[0]
    assert "2 of these 3 rows" in told[0]


def test_differences_from_training_and_policy_are_said(adapter: Path, scalar: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    told: list[str] = []
    tokenizer = AutoTokenizer.from_pretrained(scalar)
    own = choose_template(tokenizer).sha256
    score(adapter, around=Surroundings(tokenizer=tokenizer, template=own, remark=told.append))
    assert told == []
    shutil.copytree(adapter / "adapter", tmp_path / "adapter")
    changed = AutoTokenizer.from_pretrained(adapter / "adapter")
    changed.chat_template += " "
    changed.save_pretrained(tmp_path / "adapter")
    tokenizer.add_tokens(["roof"])
    assert score(tmp_path, around=Surroundings(tokenizer=tokenizer, template=own, remark=told.append))
    assert [word in line for word, line in zip(["trained with", "tokenizer", "policy"], told, strict=True)] == [
        True
    ] * 3


def test_chats_need_a_template(scalar: Path, tmp_path: Path) -> None:
    shutil.copytree(scalar, tmp_path / "plain")
    (tmp_path / "plain" / "chat_template.jinja").unlink()
    assert score(tmp_path / "plain", [text("the cat", " sat")])
    with pytest.raises(RewardError, match=r"rows\.jsonl:1: .*chat template"):
        score(tmp_path / "plain")


def test_paths_are_checked_before_anything_is_loaded(adapter: Path, tmp_path: Path) -> None:
    def fault(path: Path | str) -> str:
        return "".join(message for _, message in RewardModel(path=str(path)).faults())

    (tmp_path / "file.txt").touch()
    assert fault(adapter) == fault("org/name") == ""
    assert "no model and no adapter" in fault(tmp_path)
    assert "no sequence classifier" in fault(tmp_path / "file.txt")
    assert "no such file" in fault("./nowhere/at/all")
    assert "no run in 'runs/nowhere'" in fault("runs/nowhere")
    found = RewardModel.model_validate({"path": "adapter"}, context={"folders": [tmp_path, adapter]})
    assert found.path == str(adapter / "adapter")

"""Classes of sequence classifiers, causal ones and encoders, and what of them is the reward."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ftune.core.errors import ModelError
from ftune.rewards.base import Surroundings
from ftune.rewards.classifier import Classifier
from tests.rewards.conftest import chat, said, text

TEXTS = ("the cat", "awful", "nice cats sat on the mat", "")


def score(folder: Path, samples: object = None, around: Surroundings | None = None, **keys: object) -> list[float]:
    """The scores of a class."""
    source = Classifier.model_validate({"path": str(folder), **keys})
    return [float(value) for value in source.open(around or Surroundings(micro_batch_size=2))(samples or said(*TEXTS))]  # type: ignore[arg-type]


def test_an_encoder_gives_what_its_own_forward_gives(bert: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(bert).eval()
    tokenizer = AutoTokenizer.from_pretrained(bert)
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(words, return_tensors="pt")).logits for words in TEXTS])
    assert score(bert, label="toxic") == pytest.approx(logits.softmax(-1)[:, 1].tolist(), abs=1e-5)
    assert score(bert, label="toxic", transform="logit") == pytest.approx(logits[:, 1].tolist(), abs=1e-5)
    assert score(bert, label=0, transform="log_probability") == pytest.approx(
        logits.log_softmax(-1)[:, 0].tolist(), abs=1e-5
    )


def test_the_completion_alone_is_read_unless_the_prompt_is_asked_for(bert: Path) -> None:
    same = [text("the mat ", "nice"), text("awful ", "nice")]
    alone = score(bert, same, label="toxic")
    both = score(bert, same, label="toxic", input="conversation")
    assert alone[0] == alone[1]
    assert both[0] != both[1]
    assert both == pytest.approx(score(bert, said("the mat nice", "awful nice"), label="toxic"), abs=1e-6)


def test_a_causal_classifier_reads_a_text_with_its_end(classes: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(classes).eval()
    tokenizer = AutoTokenizer.from_pretrained(classes)
    with torch.no_grad():
        ends = [
            model.score(
                model.model(torch.tensor([[*tokenizer(words)["input_ids"], tokenizer.eos_token_id]]).long())[0][0, -1]
            )
            for words in TEXTS
        ]
    wanted = [float(logits.softmax(-1)[2]) for logits in ends]
    assert score(classes, label="good") == pytest.approx(wanted, abs=1e-5)


def test_probabilities_of_classes_that_exclude_each_other_sum_to_1(classes: Path) -> None:
    parts = [score(classes, label=number) for number in range(3)]
    assert [sum(column) for column in zip(*parts, strict=True)] == pytest.approx([1.0] * len(TEXTS))


def test_classes_that_stand_for_themselves_are_sigmoids(pad_is_eos: Callable[..., Path], scalar: Path) -> None:
    several = pad_is_eos(["rude", "threat"], problem_type="multi_label_classification")
    for folder, label in ((several, "threat"), (scalar, 0)):
        logits = torch.tensor(score(folder, label=label, transform="logit"))
        assert score(folder, label=label) == pytest.approx(logits.sigmoid().tolist())
        logs = score(folder, label=label, transform="log_probability")
        assert logs == pytest.approx(logits.sigmoid().log().tolist(), abs=1e-5)


def test_an_unknown_class_is_named_with_the_known_ones(bert: Path) -> None:
    with pytest.raises(ModelError, match=r"label: .*did you mean 'toxic'"):
        score(bert, label="toxik")
    with pytest.raises(ModelError, match="classes 0 to 1, no 2"):
        score(bert, label=2)


def test_a_long_text_keeps_its_end_and_its_first_token(bert: Path) -> None:
    told: list[str] = []
    around = Surroundings(remark=told.append)
    long = said("cat " * 40 + "awful " * 22, "mat " * 50 + "awful " * 22 + "nice", "awful " * 22)
    cut = score(bert, [chat("a", "awful " * 30), *long[:1]], around, label="toxic")
    assert cut[0] == pytest.approx(cut[1], abs=1e-5)
    assert len(told) == 1
    assert "24 tokens" in told[0]


def test_a_model_that_counts_positions_from_behind_its_pad_token(bert: Path, tmp_path: Path) -> None:
    from transformers import BertTokenizer, RobertaConfig, RobertaForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = RobertaConfig(vocab_size=13, max_position_embeddings=20, pad_token_id=1, **sizes)
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    BertTokenizer(str(bert / "vocab.txt"), pad_token="[UNK]").save_pretrained(tmp_path)  # which knows no limit
    told: list[str] = []
    assert len(score(tmp_path, said("cat " * 40, "cat"), Surroundings(remark=told.append), label=0)) == 2
    assert "18 tokens" in told[0]

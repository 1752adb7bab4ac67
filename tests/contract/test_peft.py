"""What every PEFT method promises, run on each file of `ftune/peft` by discovery and on the settings in `cases`."""

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ftune.core.errors import ModelError
from ftune.core.variants import variants_of
from ftune.peft.adapters import load_adapter, loading_adapter
from ftune.peft.base import Material, PeftMethod, count_parameters
from ftune.peft.library import LibraryMethod
from ftune.speed.selective import selective_layers
from ftune.trainers.probe import probe_packing
from tests.contract.cases import cases, learning_rate, method

IDS = torch.tensor([[5, 9, 13, 21, 34, 55, 89, 144]])
OTHER_IDS = torch.tensor([[7, 8, 100, 20, 3, 6]])

Build = Callable[[], Any]
Wrap = Callable[[str, Build], Any]


PLAIN = [case for case in cases() if "unquantized" not in method(case).limits()]
ADAPTERS = [case for case in PLAIN if method(case).library == "peft"]


def able(feature: str) -> list[str]:
    """The cases that claim to work with a feature."""
    return [case for case in PLAIN if feature not in method(case).limits()]


def often(case: str) -> bool:
    """Whether the gate tries it in every way: ftune's own methods, and some of peft's that keep more than matrices."""
    return not isinstance(method(case), LibraryMethod) or method(case).type in ("vera", "oft", "osf", "fourierft")


def rarely(cases: list[str]) -> list[Any]:
    """The cases, those of peft's own methods as slow tests."""
    return [pytest.param(case, marks=[] if often(case) else pytest.mark.slow) for case in cases]


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Build:
    from transformers import AutoModelForCausalLM

    return partial(deepcopy, AutoModelForCausalLM.from_pretrained(tiny_model))


@pytest.fixture(scope="module")
def wrap(tiny_model: Path) -> Wrap:
    """The method of a case applied to a fresh model, the same each time."""
    from transformers import AutoTokenizer

    generator = torch.Generator().manual_seed(7)
    rows = torch.randint(3, 300, (8, 24), generator=generator).tolist()
    material = Material(AutoTokenizer.from_pretrained(tiny_model), str(tiny_model), rows)

    def wrapped(case: str, build: Build) -> Any:
        model = build()
        torch.manual_seed(6)
        return method(case).wrap(model, material)

    return wrapped


@pytest.fixture(scope="module")
def classifier(tiny_model: Path) -> Build:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    return partial(deepcopy, AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3))


@pytest.fixture(scope="module")
def encoder_decoder() -> Build:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(2)
    config = T5Config(vocab_size=320, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return partial(deepcopy, T5ForConditionalGeneration(config))


def logits(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    placed = {name: value.to(model.device) for name, value in (inputs or {"input_ids": IDS}).items()}
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**placed).logits
    return found.cpu()


def trained(model: Any, case: str, steps: int = 60, **inputs: torch.Tensor) -> tuple[float, float]:
    """First and last loss of a few steps on one row, with what the method does beside them."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate(case))
    hook = method(case).hook(model)
    if hook:
        hook.begin(steps)
    placed = {name: value.to(model.device) for name, value in (inputs or {"input_ids": IDS, "labels": IDS}).items()}
    model.train()
    losses = []
    for step in range(steps):
        loss = model(**placed).loss
        extra = hook.regulariser() if hook else None
        (loss if extra is None else loss + extra).backward()
        left_out = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not left_out, "DDP waits for each gradient"
        optimizer.step()
        if hook:
            hook.after_step(step + 1)
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def reloaded(model: Any, case: str, build: Build, folder: Path) -> Any:
    """The model exported and loaded again onto a fresh base."""
    from transformers import AutoModelForCausalLM

    found = method(case)
    found.export(model, folder)
    return load_adapter(build(), folder) if found.library == "peft" else AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("case", PLAIN)
def test_only_its_parameters_train_and_the_loss_falls(case: str, base: Build, wrap: Wrap) -> None:
    before = logits(base())
    model = wrap(case, base)
    changed = relative(logits(model)[:, -IDS.shape[1] :], before)  # those of virtual tokens go before those of the text
    assert changed > 1e-4 if "step_zero" in method(case).limits() else changed < 1e-5
    trainable, total = count_parameters(model)
    assert 0 < trainable <= total
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    kept = {name: value.detach().clone() for name, value in model.named_parameters()}
    first, last = trained(model, case)
    assert last < 0.8 * first
    after = dict(model.named_parameters())
    moved = {name for name, value in kept.items() if not torch.equal(after[name], value)}
    assert moved
    assert all(after[name].requires_grad for name in moved)


@pytest.mark.parametrize("case", PLAIN)
def test_saved_and_loaded_it_gives_the_same_logits(case: str, base: Build, wrap: Wrap, tmp_path: Path) -> None:
    model: Any = wrap(case, base)
    trained(model, case, steps=4)
    assert relative(logits(reloaded(model, case, base, tmp_path)), logits(model)) < 1e-5


@pytest.mark.parametrize("case", rarely(ADAPTERS))
def test_adapters_are_switched_at_run_time(case: str, base: Build, wrap: Wrap, tmp_path: Path) -> None:
    wanted = {}
    for name, steps in (("first", 3), ("second", 8)):
        model: Any = wrap(case, base)
        trained(model, case, steps)
        wanted[name] = logits(model)
        method(case).export(model, tmp_path / name)
    loaded = load_adapter(base(), tmp_path / "first")
    with loading_adapter(loaded):
        loaded.load_adapter(str(tmp_path / "second"), adapter_name="second")
    loaded.set_adapter("second")
    assert relative(logits(loaded), wanted["second"]) < 1e-5
    loaded.set_adapter("default")
    assert relative(logits(loaded), wanted["first"]) < 1e-5
    with loaded.disable_adapter():
        assert relative(logits(loaded), logits(base())) < 1e-5
    assert relative(wanted["first"], wanted["second"]) > 1e-4


@pytest.mark.parametrize("case", rarely(able("merge")))
def test_merged_it_gives_the_same_logits(case: str, base: Build, wrap: Wrap) -> None:
    model: Any = wrap(case, base)
    trained(model, case, steps=4)
    wanted = logits(model)
    assert relative(logits(model.merge_and_unload()), wanted) < 1e-5


@pytest.mark.parametrize("case", rarely(able("classification")))
def test_a_classifier_trains_with_its_head(case: str, classifier: Build, wrap: Wrap, tmp_path: Path) -> None:
    model: Any = wrap(case, classifier)
    trained(model, case, steps=4, input_ids=IDS, labels=torch.tensor([2]))
    scores = logits(model)
    assert relative(scores, logits(classifier())) > 1e-4
    head = [p for name, p in model.named_parameters() if "score" in name and p.requires_grad]
    assert head
    if method(case).library == "peft":
        assert relative(logits(reloaded(model, case, classifier, tmp_path)), scores) < 1e-5


@pytest.mark.parametrize("case", rarely(able("encoder_decoder")))
def test_an_encoder_decoder_trains(case: str, encoder_decoder: Build, wrap: Wrap, tmp_path: Path) -> None:
    model: Any = wrap(case, encoder_decoder)
    trained(model, case, steps=4, input_ids=IDS, labels=OTHER_IDS)
    found = logits(model, input_ids=IDS, decoder_input_ids=OTHER_IDS)
    before = logits(encoder_decoder(), input_ids=IDS, decoder_input_ids=OTHER_IDS)
    assert relative(found, before) > 1e-4
    if method(case).library == "peft":
        again = reloaded(model, case, encoder_decoder, tmp_path)
        assert relative(logits(again, input_ids=IDS, decoder_input_ids=OTHER_IDS), found) < 1e-5


@pytest.mark.parametrize("case", rarely(able("packing")))
def test_packed_rows_do_not_see_each_other(case: str, base: Build, wrap: Wrap) -> None:
    model: Any = wrap(case, base)
    trained(model, case, steps=4)
    assert probe_packing(model, [IDS[0].tolist(), OTHER_IDS[0].tolist()]) < 1e-3


@pytest.mark.parametrize("case", rarely(able("activation_checkpointing")))
def test_activation_checkpointing_changes_no_gradient(case: str, base: Build, wrap: Wrap) -> None:
    found = []
    able = "selective_checkpointing" not in method(case).limits()
    for checkpointing in ("off", "all", "selective") if able else ("off", "all"):
        torch.manual_seed(3)
        model: Any = wrap(case, base)
        trained(model, case, steps=2)
        if checkpointing == "all":
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with selective_layers(model, {"input_ids": IDS}) if checkpointing == "selective" else nullcontext():
            model.train()
            torch.manual_seed(4)
            model(input_ids=IDS, labels=IDS).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, *checkpointed = found
    for gradients in checkpointed:
        assert plain.keys() == gradients.keys()
        assert all(torch.allclose(plain[name], gradients[name], rtol=1e-4, atol=1e-6) for name in plain)
    assert any(bool(gradient.abs().max() > 0) for gradient in plain.values())


@pytest.mark.parametrize("case", [case for case in PLAIN if "target_modules" in type(method(case)).model_fields])
def test_an_unknown_target_is_refused_with_what_exists(case: str, base: Build, wrap: Wrap) -> None:
    found = method(case)
    wrong = type(found).model_validate({**found.model_dump(), "target_modules": ["q_porj"]})
    with pytest.raises(ModelError, match="did you mean 'q_proj'"):
        wrong.wrap(base())


@pytest.mark.parametrize("name", variants_of(PeftMethod))
def test_limits_are_reasons_with_a_way_out(name: str) -> None:
    limits = variants_of(PeftMethod)[name].model_construct(type=name).limits()
    assert all(len(reason.split()) >= 4 for reason in limits.values())


def test_lora_counts_match_the_formula() -> None:
    """Rank 8 on a 512 x 64 layer: 8 * (512 + 64) = 4,608 parameters against 32,768."""
    from peft import LoraConfig, inject_adapter_in_model

    layer = torch.nn.Sequential(torch.nn.Linear(512, 64, bias=False))
    assert count_parameters(layer) == (32_768, 32_768)
    adapted = inject_adapter_in_model(LoraConfig(r=8, target_modules=["0"]), layer)
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 4_608

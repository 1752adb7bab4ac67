"""What a method says that it trains is what it trains, on every method and on models of several kinds."""

import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftune.core.errors import ModelError
from ftune.core.variants import variants_of
from ftune.peft.base import NOTHING, Material, PeftMethod, count_parameters
from ftune.peft.library import methods
from ftune.peft.library_facts import REFUSED
from ftune.peft.library_planned import NO_CONV1D
from ftune.peft.places import classifier
from ftune.plan.families import shape_of_config
from ftune.plan.shape import ModelShape
from tests.contract.cases import OTHER, cases, method
from tests.peft.planned_settings import BOUNDS, SETTINGS

ROWS = [[3 + (7 * row + 5 * place) % 300 for place in range(24)] for row in range(8)]
MATERIAL = Material(rows=ROWS)
PLAIN = {case: method(case) for case in cases() if "unquantized" not in method(case).limits()}
NAMED_OTHERWISE = ("adapter_fusion", "ia3", "lora, embeddings", "lora, olora")
"""Cases that name modules, or look for some, that a GPT-2 does not have."""

CONV1D = [case for case, found in PLAIN.items() if found.type not in NO_CONV1D and case not in NAMED_OTHERWISE]

OFTEN = ("lora", "full", "freeze", "prompt", "prefix", "ia3", "adapter", "vera", "oft", "osf")
"""Methods that the gate tries in every way; the others on a Llama with their defaults."""

Build = Callable[[], Any]


def section(settings: dict[str, Any]) -> PeftMethod:
    return variants_of(PeftMethod)[settings["type"]].model_validate(settings)


def llama_config(**changes: object) -> Any:
    from transformers import LlamaConfig

    sizes = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return LlamaConfig(**{**sizes, **heads, **changes, "bos_token_id": None, "eos_token_id": None})


def gpt2_config() -> Any:
    from transformers import GPT2Config

    ends = {"bos_token_id": None, "eos_token_id": None}
    return GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64, **ends)


def rarely(cases: list[str]) -> list[Any]:
    """The cases, those of rarer methods as slow tests."""
    return [pytest.param(case, marks=[] if PLAIN[case].type in OFTEN else pytest.mark.slow) for case in cases]


def shape_of(config: Any) -> ModelShape:
    return shape_of_config(config.to_dict())


def build(kind: str, config: Any) -> Build:
    import transformers

    torch.manual_seed(0)
    return partial(deepcopy, getattr(transformers, kind)._from_config(config))


@pytest.fixture(scope="module")
def llama() -> Build:
    return build("LlamaForCausalLM", llama_config())


@pytest.fixture(scope="module")
def untied() -> Build:
    return build("LlamaForCausalLM", llama_config(tie_word_embeddings=False))


@pytest.fixture(scope="module")
def gpt2() -> Build:
    return build("GPT2LMHeadModel", gpt2_config())


@pytest.fixture(scope="module")
def scorer() -> Build:
    return build("LlamaForSequenceClassification", llama_config(num_labels=3, pad_token_id=0))


def trains(found: PeftMethod, model: Any, material: Material = MATERIAL) -> int:
    """What an optimizer sees; the count that runs report is the same."""
    wrapped = found.wrap(model, material)
    seen = sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
    assert count_parameters(wrapped)[0] == seen > 0
    return seen


def says(found: PeftMethod, shape: ModelShape) -> int:
    planned = found.planned(shape)
    return planned.parameters + planned.base


@pytest.mark.parametrize("case", [case for case in PLAIN if case not in BOUNDS])
def test_it_is_what_a_tied_llama_with_grouped_queries_trains(case: str, llama: Build) -> None:
    assert says(PLAIN[case], shape_of(llama_config())) == trains(PLAIN[case], llama())


@pytest.mark.parametrize("case", rarely([case for case in CONV1D if case not in BOUNDS]))
def test_it_is_what_a_gpt2_trains(case: str, gpt2: Build) -> None:
    assert says(PLAIN[case], shape_of(gpt2_config())) == trains(PLAIN[case], gpt2())


@pytest.mark.parametrize("name", rarely(sorted(NO_CONV1D & PLAIN.keys())))
def test_what_peft_lacks_for_a_gpt2_is_refused(name: str, gpt2: Build) -> None:
    with pytest.raises(ModelError, match="Conv1D"):
        PLAIN[name].planned(shape_of(gpt2_config()))
    try:
        wrapped = PLAIN[name].wrap(gpt2())
    except ModelError:
        return
    assert count_parameters(wrapped)[0] == 0  # OSF


@pytest.mark.parametrize("name", rarely([name for name in SETTINGS if name in PLAIN]))
def test_it_is_what_other_settings_train(name: str, llama: Build) -> None:
    for settings in SETTINGS[name]:
        assert says(section(settings), shape_of(llama_config())) == trains(section(settings), llama()), settings


@pytest.mark.slow
def test_it_is_what_the_settings_of_the_contract_train(llama: Build) -> None:
    shape = shape_of(llama_config())
    for name, by_key in OTHER.items():
        for key, values in by_key.items():
            found = section({**cases()[name], **values})
            if key != "text" and (name, key) != ("bitfit", "add"):  # which need a tokenizer, and biases
                assert says(found, shape) == trains(found, llama()), (name, key)


@pytest.mark.parametrize("case", rarely([case for case in BOUNDS if case in PLAIN]))
def test_what_depends_on_data_is_at_most_what_is_said(case: str, llama: Build, gpt2: Build) -> None:
    found = section(BOUNDS[case])
    assert trains(found, llama()) <= says(found, shape_of(llama_config()))
    if found.type not in NO_CONV1D:
        assert trains(found, gpt2()) <= says(found, shape_of(gpt2_config()))


@pytest.mark.parametrize(
    "case", rarely([case for case in PLAIN if case not in BOUNDS and "classification" not in PLAIN[case].limits()])
)
def test_a_classifier_trains_its_head_too(case: str, scorer: Build) -> None:
    shape = classifier(shape_of(llama_config()), 3)
    assert says(PLAIN[case], shape) == trains(PLAIN[case], scorer())


def test_tokens_of_an_untied_embedding(untied: Build) -> None:
    found = section({"type": "trainable_tokens", "token_indices": [5, 9, 9, 13]})
    assert says(found, shape_of(llama_config(tie_word_embeddings=False))) == trains(found, untied())


def test_a_tied_weight_trains_once_and_an_untied_one_twice(llama: Build, untied: Build) -> None:
    found = section({"type": "freeze", "last_layers": 0, "embeddings": True, "head": True})
    tied = says(found, shape_of(llama_config()))
    assert tied == trains(found, llama()) == 320 * 32
    assert says(found, shape_of(llama_config(tie_word_embeddings=False))) == trains(found, untied()) == 2 * tied


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "bitfit"},
        {"type": "bitfit", "target_modules": ["c_attn", "ln_1"]},
        {"type": "ia3", "target_modules": ["mlp.c_proj", "c_fc"]},
        {"type": "lora", "target_modules": ["c_proj"], "rank_pattern": {"mlp.c_proj": 3}, "layers": [1]},
        {"type": "lora", "modules_to_save": ["wte", "ln_f"]},
        {"type": "freeze", "patterns": ["*.bias"]},
        {"type": "freeze", "last_layers": 1, "embeddings": True},
    ],
    ids=str,
)
def test_it_is_what_a_gpt2_trains_with_names_of_its_own(settings: dict[str, Any], gpt2: Build) -> None:
    assert says(section(settings), shape_of(gpt2_config())) == trains(section(settings), gpt2())


def test_frozen_numbers_are_those_of_buffers(llama: Build) -> None:
    """Where a method's projections are buffers of the wrapped model, they are counted in numbers of four bytes."""
    shape = shape_of(llama_config())
    before = sum(buffer.numel() for buffer in llama().buffers())
    for name in ("vera", "pvera", "randlora", "tinylora", "psoft", "delora", "boft"):
        wrapped = PLAIN[name].wrap(llama())
        kept = sum(buffer.numel() for key, buffer in wrapped.named_buffers() if not key.endswith((".rows", ".cols")))
        assert PLAIN[name].planned(shape).frozen == kept - before, name


def test_where_training_begins_and_what_stands_before_a_row() -> None:
    shape = shape_of(llama_config(num_hidden_layers=6))
    assert section({"type": "lora", "layers": [4, 3]}).planned(shape).lowest_layer == 3
    assert section({"type": "lora", "layers": [4], "modules_to_save": ["lm_head"]}).planned(shape).lowest_layer == 4
    assert (
        section({"type": "lora", "layers": [4], "modules_to_save": ["embed_tokens"]}).planned(shape).lowest_layer == 0
    )
    assert section({"type": "adapter", "drop_layers": 2}).planned(shape).lowest_layer == 2
    assert section({"type": "freeze", "last_layers": 1}).planned(shape).lowest_layer == 5
    assert section({"type": "freeze", "layers": [5], "embeddings": True}).planned(shape).lowest_layer == 0
    assert section({"type": "prompt", "virtual_tokens": 7}).planned(shape).virtual_tokens == 7
    assert section({"type": "prefix", "virtual_tokens": 7}).planned(shape).prefix_tokens == 7


def test_paths_beside_linear_layers_are_those_adapted() -> None:
    shape = shape_of(llama_config())
    found = section({"type": "lora", "target_modules": ["q_proj", "down_proj"], "rank_pattern": {"0.mlp.down_proj": 9}})
    assert dict(found.planned(shape).low_rank) == {"self_attn.q_proj": 16, "mlp.down_proj": 16}
    assert section({"type": "lora"}).dense(shape) == 0
    assert section({"type": "loha"}).dense(shape) == shape.layers * shape.layer_weights


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "lora", "target_modules": ["q_porj"]}, "did you mean 'q_proj'"),
        ({"type": "lora", "layers": [2]}, "2 is not there"),
        ({"type": "lora", "rank_pattern": {"q_porj": 3}}, "no linear layer 'q_porj'"),
        ({"type": "lora", "modules_to_save": ["embed_token"]}, "did you mean 'embed_tokens'"),
        ({"type": "bitfit"}, "has no biases"),
        ({"type": "freeze", "layers": [7]}, "7 is not there"),
        ({"type": "freeze", "patterns": ["model.nrom.*"]}, "did you mean"),
        ({"type": "adapter", "drop_layers": 2}, "leaves none"),
        ({"type": "adapter", "feed_forward_modules": ["mpl"]}, "did you mean 'mlp'"),
        ({"type": "adaption_prompt", "adapter_len": 2, "adapter_layers": 3}, "than the model"),
    ],
)
def test_what_a_model_cannot_have_is_refused_as_on_the_model(
    settings: dict[str, Any], message: str, llama: Build
) -> None:
    with pytest.raises(ModelError, match=message):
        section(settings).planned(shape_of(llama_config()))
    with pytest.raises(ModelError, match=message):
        section(settings).wrap(llama(), NOTHING)


@hypothesis.settings(max_examples=25)
@given(
    rank=st.integers(1, 256),
    layers=st.integers(1, 40),
    heads=st.integers(1, 8),
    groups=st.integers(1, 4),
    ffn=st.integers(8, 400),
)
def test_lora_is_rank_times_what_goes_in_and_out(rank: int, layers: int, heads: int, groups: int, ffn: int) -> None:
    """Written out for a Llama, and DoRA's magnitudes beside it."""
    hidden, keys = heads * groups * 8, heads * 8
    sizes = {"hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers}
    config = {"num_attention_heads": heads * groups, "num_key_value_heads": heads, "vocab_size": 99, **sizes}
    shape = shape_of_config({"model_type": "llama", **config})
    into_out = 4 * hidden + 2 * (hidden + keys) + 3 * (hidden + ffn)
    outputs = 3 * hidden + 2 * keys + 2 * ffn
    lora = {"type": "lora", "rank": rank}
    assert says(section(lora), shape) == layers * rank * into_out
    assert says(section({**lora, "dora": True}), shape) == layers * (rank * into_out + outputs)


def test_every_method_is_tried_with_more_than_its_defaults() -> None:
    tried = {*SETTINGS, *OTHER, "trainable_tokens"}
    assert tried >= {name for name in methods() if name not in REFUSED}
    assert {one["type"] for some in SETTINGS.values() for one in some} <= set(variants_of(PeftMethod))


def test_planning_imports_nothing_heavy() -> None:
    """What `planned` reaches is what a recipe's check reaches."""
    import subprocess

    code = (
        "import sys; from ftune.core.variants import variants_of; from ftune.peft.base import PeftMethod; "
        "from ftune.plan.by_hand import shape_by_hand; shape = shape_by_hand(parameters=7_000_000_000); "
        "every = variants_of(PeftMethod); "
        "names = ('lora', 'vera', 'freeze', 'adapter'); "
        "[every[name].model_validate({'type': name}).planned(shape) for name in names]; "
        "print([name for name in ('torch', 'peft', 'transformers', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

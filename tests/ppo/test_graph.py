"""The graph engine's own pass over Llama-like models: the model's logits, adapters and all, or a refusal.

What every engine promises is in test_rollout_contract.py. All of it runs eagerly here; a GPU compiles and captures it.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model

from ftune.core.errors import ModelError
from ftune.ppo.rollout.base import Policy, Sampling
from ftune.ppo.rollout.graph import Graph, graph_serves
from ftune.ppo.rollout.graphs import session
from ftune.ppo.rollout.graphs.drawing import draw
from ftune.ppo.rollout.graphs.engine import GraphEngine
from ftune.ppo.rollout.graphs.layout import read_layout
from ftune.ppo.rollout.graphs.proof import TOLERANCE, difference
from ftune.ppo.rollout.graphs.weights import Mode, check_mode

VOCAB, STOP = 89, 2
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MODES: tuple[Mode, Mode] = ("shared", "merged")
GREEDY = Sampling(max_new_tokens=10, temperature=1e-5)
PROMPTS = [[3 + (7 * place + length) % 80 for place in range(length)] for length in (3, 11, 1, 6, 2, 9, 4)]
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def tiny(family: str = "Llama", dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """Three layers with contrast in their logits."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": STOP,
        "pad_token_id": STOP,
    }
    config = getattr(transformers, f"{family}Config")(**{**sizes, **settings})
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # all zeros or ones in a new model
                value.add_(0.3 * torch.randn_like(value))
    return model.to(dtype).eval()


def adapted(base: Any, **fields: Any) -> PeftModel:
    """With a LoRA that has been trained, on all linear maps unless told."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": LINEARS, "init_lora_weights": False, **fields}
    model = get_peft_model(base, LoraConfig(**settings)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "magnitude" in name:
                value.mul_(1.3)
    return model


def policy_of(model: Any, **fields: Any) -> Policy:
    return Policy(model, pad_id=STOP, stop_ids=(STOP,), **fields)


def difference_of(policy: Policy, mode: Mode) -> float:
    return difference(policy, read_layout(policy), mode)


MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny,
    "llama with biases": lambda: tiny(attention_bias=True, mlp_bias=True),
    "llama tied": lambda: tiny(tie_word_embeddings=True),
    "llama, wide heads": lambda: tiny(head_dim=16),
    "llama 3 positions": lambda: tiny(rope_parameters=LLAMA3),
    "yarn positions": lambda: tiny(rope_parameters=YARN),
    "mistral": lambda: tiny("Mistral", sliding_window=None),
    "qwen2": lambda: tiny("Qwen2"),
    "qwen3": lambda: tiny("Qwen3", head_dim=8),
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "all maps": {},
    "rank-stabilised": {"use_rslora": True},
    "some maps": {"target_modules": ["q_proj", "v_proj", "up_proj"]},
    "one layer": {"layers_to_transform": [1]},
    "ranks that differ": {"rank_pattern": {"k_proj": 2, "up_proj": 7}, "alpha_pattern": {"k_proj": 3}},
    "head too": {"target_modules": [*LINEARS, "lm_head"]},
}


@pytest.mark.parametrize(("kind", "mode"), list(product(MODELS, MODES)))
def test_logits_are_those_of_the_model(kind: str, mode: Mode) -> None:
    assert difference_of(policy_of(adapted(MODELS[kind]())), mode) < 1e-5


@pytest.mark.parametrize(("kind", "mode"), list(product(ADAPTERS, MODES)))
def test_every_adapter_counts_as_it_does_in_the_model(kind: str, mode: Mode) -> None:
    policy = policy_of(adapted(tiny(), **ADAPTERS[kind]))
    assert difference_of(policy, mode) < 1e-5
    with policy.model.disable_adapter():
        assert difference_of(policy, mode) < 1e-5, "and not at all where it is switched off"


@pytest.mark.parametrize("mode", MODES)
def test_a_model_without_adapters_is_served(mode: Mode) -> None:
    assert difference_of(policy_of(tiny()), mode) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_two_active_adapters_add_up(mode: Mode) -> None:
    model = adapted(tiny())
    model.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj", "down_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    assert difference_of(policy_of(model), mode) < 1e-5


def test_dora_is_served_by_merged_weights_alone() -> None:
    policy = policy_of(adapted(tiny(), use_dora=True))
    assert difference_of(policy, "merged") < 1e-5
    with pytest.raises(ModelError, match=r"weights: shared cannot serve this model: DoRA.*set merged"):
        Graph(weights="shared").open(policy)


@pytest.mark.parametrize("mode", MODES)
def test_16_bit_weights_with_adapters_in_fp32_agree_within_rounding(mode: Mode) -> None:
    model = adapted(tiny(dtype=torch.bfloat16))
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16, torch.float32}
    policy = policy_of(model, autocast=torch.bfloat16)
    assert difference_of(policy, mode) < TOLERANCE[torch.bfloat16]


def test_weights_in_fp32_under_autocast_are_copied_in_16_bit() -> None:
    policy = policy_of(tiny(), autocast=torch.bfloat16)
    assert difference_of(policy, "merged") < TOLERANCE[torch.bfloat16]
    with pytest.raises(ModelError, match=r"weights are torch\.float32 and products are made in torch\.bfloat16"):
        Graph(weights="shared").open(policy)


def test_quantised_weights_are_read_by_merged_alone() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    base = tiny(hidden_size=64, intermediate_size=64)
    for layer in base.model.layers:
        for owner, name in product((layer.self_attn, layer.mlp), LINEARS):
            if hasattr(owner, name):
                plain = getattr(owner, name)
                packed = bnb.nn.Linear4bit(plain.in_features, plain.out_features, bias=False, quant_type="nf4")
                packed.weight = bnb.nn.Params4bit(plain.weight.data, requires_grad=False, quant_type="nf4")
                setattr(owner, name, packed.to("cpu"))
    policy = policy_of(adapted(base), autocast=torch.bfloat16)
    assert policy.model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.uint8
    assert difference_of(policy, "merged") < TOLERANCE[torch.bfloat16]
    with pytest.raises(ModelError, match=r"weights are torch\.uint8"):
        check_mode(read_layout(policy), "shared")


def hooked() -> Any:
    model = tiny()
    model.model.layers[1].mlp.register_forward_hook(lambda module, args, output: output * 2)
    return model


def wrapped() -> Any:
    model = tiny()
    model.model.layers[1].self_attn.forward = model.model.layers[1].self_attn.forward
    return model


def with_prompt_tuning() -> Any:
    return get_peft_model(tiny(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))


def merged_in_place() -> Any:
    model = adapted(tiny())
    model.merge_adapter()
    return model


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "family": (lambda: tiny("Gemma", head_dim=8), "of type gemma; served are llama, mistral, qwen2, qwen3"),
    "window": (lambda: tiny("Mistral", sliding_window=8), "sliding window of 8 tokens"),
    "some windows": (
        lambda: tiny("Qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1),
        "some of its layers attend to a sliding window",
    ),
    "activation": (lambda: tiny(hidden_act="gelu"), "activation is gelu"),
    "positions": (lambda: tiny(rope_parameters=DYNAMIC), "of type dynamic; served: default, linear"),
    "hook": (hooked, "mlp of layer 1 is adapted in a way that is unknown"),
    "patched": (wrapped, "self_attn of layer 1 is adapted in a way that is unknown"),
    "virtual tokens": (with_prompt_tuning, "PROMPT_TUNING feeds virtual tokens"),
    "merged": (merged_in_place, "q_proj of layer 0 holds a merged adapter"),
    "embeddings": (lambda: adapted(tiny(), target_modules=["q_proj", "embed_tokens"]), "embeddings are adapted"),
    "kind": (lambda: get_peft_model(tiny(), other_tuner()), r"v_proj of layer 0 is a peft.tuners.lokr.*\.Linear"),
    "bias": (lambda: adapted(tiny(), lora_bias=True), "adapter with a bias"),
}


def other_tuner() -> Any:
    from peft import LoKrConfig

    return LoKrConfig(r=2, target_modules=["v_proj"])


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_computed_wrongly_is_refused(what: str) -> None:
    make, message = REFUSED[what]
    with pytest.raises(ModelError, match=rf"the graph engine cannot serve this model: .*({message})"):
        Graph().open(policy_of(make()))


def test_a_pass_with_other_logits_than_the_model_is_refused() -> None:
    model = tiny()
    model.model.layers[2].self_attn.scaling *= 1.5  # the pass takes the first layer's for all
    with pytest.raises(ModelError, match=r"its logits differ from the model's own by .* at most 0\.001"):
        Graph().open(policy_of(model))


def test_a_cpu_is_no_machine_for_it_unless_it_is_named() -> None:
    assert graph_serves(policy_of(tiny())) == "the model is on the cpu; the graph engine is made for GPUs"


@pytest.mark.parametrize(("mode", "rows"), list(product(MODES, [1, 3, 256])))
def test_waves_and_parts_of_prompts_change_no_completion(
    mode: Mode, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(adapted(tiny()))
    whole = Graph(weights=mode).open(policy).generate(PROMPTS, GREEDY, 0)
    monkeypatch.setattr(session, "PROMPT_TOKENS", 12)
    parts = Graph(weights=mode, micro_batch_size=rows).open(policy).generate(PROMPTS, GREEDY, 0)
    assert [one.token_ids for one in parts] == [one.token_ids for one in whole]


@pytest.mark.parametrize("mode", MODES)
def test_an_engine_that_has_rested_goes_on_with_the_policy_as_it_is(mode: Mode) -> None:
    policy = policy_of(adapted(tiny()))
    engine = GraphEngine(policy, read_layout(policy), mode, 4)
    first = engine.generate(PROMPTS, GREEDY, 0)
    engine.rest()
    assert engine.generate(PROMPTS, GREEDY, 0) == first
    engine.rest()
    with torch.no_grad():
        for name, value in policy.model.named_parameters():
            if "lora_B" in name:
                value.mul_(-1)
    engine.policy_changed()
    fresh = GraphEngine(policy, read_layout(policy), mode, 4).generate(PROMPTS, GREEDY, 0)
    assert engine.generate(PROMPTS, GREEDY, 0) == fresh != first


def test_longer_prompts_and_longer_completions_get_more_room() -> None:
    policy = policy_of(adapted(tiny()))
    engine = Graph().open(policy)
    engine.generate(PROMPTS[:2], GREEDY, 0)
    long, many = [[5 + place % 70 for place in range(200)]], Sampling(150, 1e-5)
    assert engine.generate(long, many, 0) == Graph().open(policy).generate(long, many, 0)


def test_steps_end_soon_after_all_rows_have_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    policy = Policy(model, pad_id=STOP, stop_ids=tuple(range(VOCAB)))
    engine = Graph().open(policy)
    drawn = []
    monkeypatch.setattr(session, "draw", lambda *given: drawn.append(1) or draw(*given))
    made = engine.generate(PROMPTS, Sampling(200), 0)
    assert all(rollout.stopped and len(rollout.token_ids) == 1 for rollout in made)
    assert len(drawn) <= 2 * session.POLL


def test_the_base_is_never_changed() -> None:
    policy = policy_of(adapted(tiny(dtype=torch.bfloat16)), autocast=torch.bfloat16)
    before = {name: value.clone() for name, value in policy.model.named_parameters()}
    engine = Graph(weights="merged").open(policy)
    for seed in range(3):
        engine.generate(PROMPTS[:2], GREEDY, seed)
        engine.policy_changed()
    assert all(torch.equal(value, before[name]) for name, value in policy.model.named_parameters())


def test_a_token_wins_by_its_probability_over_its_noise() -> None:
    drawn = torch.Generator().manual_seed(0)
    logits_BV = 3 * torch.randn(50, 11, generator=drawn)
    noise_BV = torch.empty(50, 11).exponential_(generator=drawn)
    tokens_B, logprobs_B = draw(logits_BV, noise_BV, 0, 1.0)
    for logits_V, noise_V, token, logprob in zip(logits_BV, noise_BV, tokens_B, logprobs_B, strict=True):
        probs = (logits_V.double().exp() / logits_V.double().exp().sum()).tolist()
        assert int(token) == max(range(11), key=lambda index: probs[index] / float(noise_V[index]))
        assert float(logprob) == pytest.approx(torch.tensor(probs[int(token)]).log().item(), abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_blocks_and_draws_compile_whole_and_once_for_all_layers(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A break would cost a launch a step; a compilation for every layer, minutes. What is generated is not at stake."""
    torch._dynamo.reset()
    graphs: list[str] = []

    def backend(module: torch.fx.GraphModule, inputs: object) -> Any:
        graphs.append(module.code)
        return module.forward

    made: dict[Any, Any] = {}

    def compiled(session: object, function: Any) -> Any:
        return made.setdefault(function, torch.compile(function, dynamic=False, fullgraph=True, backend=backend))

    policy = policy_of(adapted(tiny()))
    engine = GraphEngine(policy, read_layout(policy), mode, 8)
    plain = engine.generate(PROMPTS, GREEDY, 0)
    monkeypatch.setattr(session.Session, "_fast", compiled)
    assert engine.generate(PROMPTS, GREEDY, 0) == plain
    engine.rest()
    assert engine.generate(PROMPTS, GREEDY, 0) == plain
    assert len(graphs) == len(made) == 2
    torch._dynamo.reset()

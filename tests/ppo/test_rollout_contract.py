"""What every rollout engine promises, held against a plain forward pass of the model, token by token."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ftune.core.errors import LaunchError, ModelError
from ftune.core.variants import variants_of
from ftune.ppo.rollout.base import Engine, Policy, Rollout, RolloutEngine, Sampling

ENGINES = sorted({*variants_of(RolloutEngine)} - {"auto", "vllm"})  # one is another of them, one needs a GPU
GREEDY = Sampling(max_new_tokens=12, temperature=1e-5)
VOCAB, EOS = 97, 2
PROMPTS = [
    [int(token) for token in torch.randint(6, VOCAB, (length,), generator=torch.Generator().manual_seed(length))]
    for length in (3, 9, 1, 5, 4, 7, 2, 11, 6, 13, 8, 10, 12, 14, 15, 16)
]
FEW = PROMPTS[:6]
RECOMMENDED = {
    "do_sample": True,
    "repetition_penalty": 5.0,
    "min_new_tokens": 12,
    "top_p": 0.1,
    "temperature": 3.0,
    "top_k": 3,
}


@dataclass(frozen=True)
class Opened:
    """An engine and what it works on."""

    engine: Engine
    policy: Policy

    def __call__(self, prompts: Sequence[list[int]], sampling: Sampling = GREEDY, seed: int = 0) -> list[Rollout]:
        """Completions, greedy unless told."""
        return self.engine.generate(prompts, sampling, seed)


def tiny(kind: str = "llama") -> PeftModel:
    """A model with strong opinions, an adapter that changes them, and an author who recommends other sampling."""
    torch.manual_seed(0)
    ids = {"bos_token_id": None, "eos_token_id": EOS, "pad_token_id": EOS}
    if kind == "gpt2":  # positions are learned: a shifted row is a different row
        sizes = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        model = GPT2LMHeadModel(GPT2Config(**sizes, **ids, initializer_range=0.3, tie_word_embeddings=False))
        targets = ["c_attn"]
    else:
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        sizes = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ids, initializer_range=0.3))
        targets = ["q_proj", "v_proj", "up_proj", "down_proj"]
    model.generation_config = GenerationConfig(**RECOMMENDED, **ids)
    lora = LoraConfig(r=4, lora_alpha=16, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, lora).eval()


def expected(model: PeftModel, prompt: list[int], stop_ids: Sequence[int], length: int = 12) -> list[int]:
    """The likeliest tokens, each from a forward pass over everything before it, without cache or padding."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + length:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in stop_ids:
                break
    return ids[len(prompt) :]


def some_ends(plain: list[list[int]]) -> tuple[int, ...]:
    """Two tokens that end some completions, each in its own rows, and not all."""
    tokens = sorted({token for row in plain for token in row[1:]})
    rows_of = {token: {place for place, row in enumerate(plain) if token in row} for token in tokens}
    return max(
        ((one, two) for one in tokens for two in tokens if rows_of[one] - rows_of[two] and rows_of[two] - rows_of[one]),
        key=lambda pair: (len(rows_of[pair[0]] | rows_of[pair[1]]) <= 10) * len(rows_of[pair[0]] | rows_of[pair[1]]),
    )


def open_engine(name: str, policy: Policy) -> Engine:
    try:
        return variants_of(RolloutEngine)[name]().open(policy)
    except (LaunchError, ModelError) as refused:
        if name != "graph":  # the others serve every model here
            raise
        pytest.skip(str(refused))


@pytest.fixture(scope="module")
def policies() -> dict[str, tuple[Policy, list[list[int]]]]:
    """Models by kind, with what they would write if nothing stopped them."""
    made = {}
    for kind in ("llama", "gpt2"):
        model = tiny(kind)
        plain = [expected(model, prompt, ()) for prompt in PROMPTS]
        made[kind] = Policy(model, pad_id=EOS, stop_ids=some_ends(plain)), plain
    return made


@pytest.fixture(scope="module", params=ENGINES)
def opened(request: pytest.FixtureRequest, policies: dict[str, tuple[Policy, list[list[int]]]]) -> Opened:
    policy, _ = policies["llama"]
    return Opened(open_engine(request.param, policy), policy)


@pytest.fixture(params=ENGINES)
def changing(request: pytest.FixtureRequest) -> Opened:
    """A model of its own for tests that change it."""
    policy = Policy(tiny(), pad_id=EOS, stop_ids=(EOS,))
    return Opened(open_engine(request.param, policy), policy)


@pytest.fixture
def other_mode(changing: Opened) -> Opened:
    """As between two updates: training mode, activation checkpointing on."""
    model = changing.policy.model
    model.get_base_model().activation_checkpointing_enable()
    model.train()
    model.get_base_model().model.norm.eval()  # a mixture, to be given back as it was
    return changing


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_each_prompt_gets_its_own_completion_up_to_and_including_its_first_stop_token(
    policies: dict[str, tuple[Policy, list[list[int]]]], kind: str, engine: str
) -> None:
    policy, plain = policies[kind]
    made = open_engine(engine, policy).generate(PROMPTS, GREEDY, 0)
    ends = [min((row.index(stop) for stop in policy.stop_ids if stop in row), default=None) for row in plain]
    wanted = [row if end is None else row[: end + 1] for row, end in zip(plain, ends, strict=True)]
    assert [rollout.token_ids for rollout in made] == wanted
    assert [rollout.prompt_ids for rollout in made] == PROMPTS
    assert [rollout.stopped for rollout in made] == [end is not None for end in ends]
    assert {rollout.token_ids[-1] for rollout in made if rollout.stopped} == set(policy.stop_ids), "both ended some"
    assert {len(rollout.token_ids) for rollout in made if not rollout.stopped} == {12}, "the limit ended the others"


def test_a_completion_does_not_depend_on_its_neighbours(opened: Opened) -> None:
    together = opened(PROMPTS)
    assert [rollout.token_ids for rollout in opened(PROMPTS[::-1])] == [rollout.token_ids for rollout in together][::-1]
    assert opened([PROMPTS[2]])[0].token_ids == together[2].token_ids


def test_the_limit_of_tokens_is_kept(opened: Opened) -> None:
    one = opened(PROMPTS, replace(GREEDY, max_new_tokens=1))
    assert [rollout.token_ids for rollout in one] == [expected(opened.policy.model, p, (), 1) for p in PROMPTS]


def test_no_prompts_give_no_completions(opened: Opened) -> None:
    assert opened([]) == []


def test_draws_depend_on_the_seed_alone(opened: Opened) -> None:
    sampling = Sampling(max_new_tokens=8)
    torch.manual_seed(1)
    first = opened(PROMPTS, sampling, seed=3)
    torch.manual_seed(2)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert opened(PROMPTS, sampling, seed=3) == first
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert [rollout.token_ids for rollout in opened(PROMPTS, sampling, seed=4)] != [r.token_ids for r in first]


def test_logprobs_are_those_of_the_model_at_the_temperature(opened: Opened) -> None:
    made = opened(PROMPTS, Sampling(max_new_tokens=8, temperature=0.7), seed=1)
    for rollout in made:
        ids, start = torch.tensor([rollout.prompt_ids + rollout.token_ids]), len(rollout.prompt_ids)
        with torch.no_grad():
            logits_TV = opened.policy.model(ids).logits[0, start - 1 : -1]
        wanted_T = (logits_TV / 0.7).log_softmax(-1).gather(1, ids[0, start:, None])[:, 0]
        assert rollout.logprobs is not None
        torch.testing.assert_close(torch.tensor(rollout.logprobs), wanted_T, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.6)])
def test_tokens_are_drawn_as_often_as_the_model_says(opened: Opened, top_k: int, top_p: float) -> None:
    """One token after one prompt, many times; what the author recommends for generation plays no part."""
    count, prompt = 384, PROMPTS[0]
    with torch.no_grad():
        probs_V = (opened.policy.model(torch.tensor([prompt])).logits[0, -1] / 2).softmax(-1)
    order = probs_V.argsort(descending=True)
    before = probs_V[order].cumsum(0) - probs_V[order]
    kept = order[(before < top_p) & (torch.arange(VOCAB) < (top_k or VOCAB))]
    wanted_V = torch.zeros(VOCAB).index_copy(0, kept, probs_V[kept] / probs_V[kept].sum())
    drawn = opened([prompt] * count, Sampling(1, temperature=2.0, top_k=top_k, top_p=top_p), seed=5)
    found_V = torch.bincount(torch.tensor([rollout.token_ids[0] for rollout in drawn]), minlength=VOCAB) / count
    assert found_V[wanted_V == 0].sum() == 0
    assert ((found_V - wanted_V).abs() < 5 * (wanted_V / count).sqrt() + 2 / count).all()


def test_a_pad_token_in_the_middle_is_a_token(changing: Opened) -> None:
    model = changing.policy.model
    plain = [expected(model, prompt, ()) for prompt in FEW]
    pad = plain[0][1]
    kind = next(name for name in ENGINES if changing.engine.name.startswith(name))
    engine = open_engine(kind, replace(changing.policy, pad_id=pad, stop_ids=()))
    assert [rollout.token_ids for rollout in engine.generate(FEW, GREEDY, 0)] == plain


def test_it_follows_the_adapters_and_their_changes(changing: Opened) -> None:
    model, stops = changing.policy.model, changing.policy.stop_ids
    before = [rollout.token_ids for rollout in changing(FEW)]
    with model.disable_adapter():
        assert before != [expected(model, prompt, stops) for prompt in FEW]
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.mul_(-1)
    changing.engine.policy_changed()
    after = [rollout.token_ids for rollout in changing(FEW)]
    assert before != after
    assert after == [expected(model, prompt, stops) for prompt in FEW]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_is_left_as_it_was_found(other_mode: Opened, attention: str) -> None:
    model = other_mode.policy.model
    model.get_base_model().set_attn_implementation(attention)
    recommended, config = model.generation_config, model.config.to_dict()
    modes = {name: (module.training, set(vars(module))) for name, module in model.named_modules()}
    values = {name: (value.clone(), value.requires_grad) for name, value in model.named_parameters()}
    made = other_mode(FEW)
    other_mode.engine.rest()
    assert model.get_base_model().generation_config is model.generation_config is recommended
    assert model.config.to_dict() == config
    assert model.config._attn_implementation == attention
    assert {name: (module.training, set(vars(module))) for name, module in model.named_modules()} == modes
    for name, value in model.named_parameters():
        assert torch.equal(value, values[name][0])
        assert value.requires_grad == values[name][1]
    stops = other_mode.policy.stop_ids
    assert [r.token_ids for r in made] == [expected(model, prompt, stops) for prompt in FEW], "checkpointing is on"

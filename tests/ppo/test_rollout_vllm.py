"""What goes to vLLM: the weights, which must not change here, and the requests."""

import copy
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from threading import Thread
from typing import Any, ClassVar

import pytest
import requests
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from pydantic import ValidationError
from transformers import LlamaConfig, LlamaForCausalLM
from trl.generation.vllm_client import VLLMClient

from ftune.core.errors import LaunchError, ModelError
from ftune.ppo.rollout.base import Policy, Sampling
from ftune.ppo.rollout.engines.merged import check_mergeable, merged_parameters
from ftune.ppo.rollout.engines.vllm import ServerEngine
from ftune.ppo.rollout.vllm import Vllm


def adapted(dtype: torch.dtype = torch.float32, *, tied: bool = False, **lora: Any) -> PeftModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied)
    keys = {"target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM", **lora}
    return get_peft_model(LlamaForCausalLM(config).to(dtype), LoraConfig(r=4, lora_alpha=8, **keys)).eval()


@pytest.mark.parametrize(
    "keys", [{}, {"tied": True}, {"target_modules": ["q_proj", "embed_tokens"]}, {"use_rslora": True}]
)
def test_names_and_values_are_those_of_the_merged_model(keys: dict[str, Any]) -> None:
    model = adapted(**keys)
    check_mergeable(model)
    streamed = dict(merged_parameters(model))
    merged = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    assert streamed.keys() == merged.keys()
    for name, value in merged.items():
        torch.testing.assert_close(streamed[name], value, atol=1e-6, rtol=1e-6)
        assert not streamed[name].requires_grad


def test_a_full_model_is_streamed_as_it_is() -> None:
    model = adapted().unload()
    for (name, value), (own_name, own) in zip(merged_parameters(model), model.named_parameters(), strict=True):
        assert (name, value.data_ptr()) == (own_name, own.data_ptr())


def test_twenty_synchronisations_leave_bf16_weights_bit_for_bit() -> None:
    """In-place merging and unmerging does not: that is why this stream exists."""
    model = adapted(torch.bfloat16)
    before = {name: value.clone() for name, value in model.named_parameters()}
    for _ in range(20):
        for name, value in merged_parameters(model):
            assert value.dtype == torch.bfloat16, name
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    for _ in range(20):
        model.merge_adapter()
        model.unmerge_adapter()
    assert not all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_only_the_active_adapter_is_summed_in() -> None:
    model = adapted()
    alone = {name: value.clone() for name, value in merged_parameters(model)}
    model.add_adapter("value", LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    assert all(torch.equal(value, alone[name]) for name, value in merged_parameters(model))
    with model.disable_adapter():
        base = {name: value.clone() for name, value in merged_parameters(model)}
    assert all(torch.equal(value, base[name]) for name, value in model.unload().named_parameters())


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (lambda: adapted(use_dora=True), r"q_proj' has a variant of LoRA \(DoRA"),
        (lambda: adapted(modules_to_save=["embed_tokens"]), r"embed_tokens' is trained as a whole"),
        (lambda: adapted(tied=True, target_modules=["embed_tokens"]), r"embed_tokens' shares its weight"),
        (
            lambda: get_peft_model(adapted().unload(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
            r"prompt_tuning are not supported",
        ),
    ],
)
def test_other_adapters_are_refused_by_name(model: Any, found: str) -> None:
    with pytest.raises(ModelError, match=found):
        check_mergeable(model())


def test_a_merged_adapter_is_refused() -> None:
    model = adapted()
    model.merge_adapter()
    with pytest.raises(ModelError, match="merged in already"):
        check_mergeable(model)


class Stand(BaseHTTPRequestHandler):
    """Answers as vLLM's completions do: the tokens are the prompt's first, the seed modulo 7, then the stop token."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        """One completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        tokens = [body["prompt"][0][0], 10 + body["seed"] % 7, *body["stop_token_ids"][:1], 39]
        named = [f"token_id:{token}" for token in tokens]
        logprobs = [-0.5 * place for place in range(len(tokens))]
        tops = [{name: value} for name, value in zip(named, logprobs, strict=True)]
        choice = {
            "prompt_token_ids": body["prompt"][0],
            "token_ids": tokens,
            "logprobs": {"tokens": named, "token_logprobs": logprobs, "top_logprobs": tops},
        }
        answer = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def client() -> Iterator[VLLMClient]:
    """TRL's client as it is after its start, which wants a real vLLM."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stand)
    Thread(target=server.serve_forever, daemon=True).start()
    made = VLLMClient.__new__(VLLMClient)
    made.session, made.model = requests.Session(), "policy"
    made.base_url = f"http://127.0.0.1:{server.server_port}"
    Stand.asked.clear()
    yield made
    made.session.close()
    server.shutdown()
    server.server_close()


def test_requests_carry_the_sampling_and_a_seed_each(client: VLLMClient) -> None:
    engine = ServerEngine(Policy(adapted(), pad_id=0, stop_ids=(2, 3)), client, sender=False)
    prompts = [[5, 6], [7], [5, 6], [8, 8, 8]]
    made = engine.generate(prompts, Sampling(9, temperature=0.7), seed=1)
    assert [rollout.prompt_ids for rollout in made] == prompts
    assert [rollout.token_ids[0] for rollout in made] == [5, 7, 5, 8]
    assert all(rollout.token_ids[2:] == [2] and rollout.stopped for rollout in made), "cut behind the stop token"
    assert made[0].logprobs == [0.0, -0.5, -1.0]
    assert len({body["seed"] for body in Stand.asked}) == len(prompts), "equal prompts get different completions"
    wanted = {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "n": 1}
    wanted |= {"max_tokens": 9, "stop_token_ids": [2, 3], "ignore_eos": True}
    assert all({key: body[key] for key in wanted} == wanted for body in Stand.asked)
    assert engine.generate(prompts, Sampling(9, temperature=0.7), seed=1) == made
    assert engine.generate(prompts, Sampling(9, temperature=0.7), seed=2) != made


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is here")
def test_a_missing_package_is_a_fault_and_a_cpu_is_refused() -> None:
    assert [place for place, message in Vllm().faults() if "pip install 'ftune[vllm]'" in message] == [("type",)]
    with pytest.raises(LaunchError, match="on none; use type: auto"):
        Vllm().open(Policy(adapted(), pad_id=0, stop_ids=(2,)))


@pytest.mark.parametrize("keys", [{"gpu_memory_utilization": 0.5}, {"mode": "colocate", "url": "http://a:1"}])
def test_keys_of_the_other_mode_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="means nothing in mode"):
        Vllm(**keys)

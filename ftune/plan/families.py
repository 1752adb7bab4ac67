"""From a model's `config.json` to its shape: one function a way that transformers builds decoder layers.

The names, biases and norms are those of transformers 5; the tests build each family and count.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ftune.core.errors import ModelError
from ftune.core.suggest import did_you_mean
from ftune.plan.shape import Embedding, Linear, ModelShape, Norm

Config = Mapping[str, Any]

HEAD_DIM = {"gemma": 256, "gemma2": 256, "gemma3_text": 256, "qwen3": 128}
"""Of families that do not divide the hidden width by the heads, where the config leaves it out."""


def shape_of_config(config: Config, where: str = "config.json") -> ModelShape:
    """The shape of the causal language model that a `config.json` describes; `where` names it in errors.

    Raises ModelError for a family that is not known here, or a config without the fields that its family needs.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        hint = did_you_mean(str(family), FAMILIES)
        raise ModelError(
            f"{where}: model_type {family!r} is not one whose shape is known{hint}; 'ftune plan' takes it by hand: "
            "--params, --layers, --hidden"
        )
    return replace(FAMILIES[family](_Fields(config, where)), **_stored(config.get("quantization_config")))


def _stored(quantization: object) -> dict[str, Any]:
    """How the files of a model hold its weights that is quantised already."""
    if not isinstance(quantization, Mapping):
        return {}
    way = str(quantization.get("quant_method") or "bitsandbytes")
    if not way.startswith("bitsandbytes"):
        return {"stored_as": way}
    kind = "int8" if quantization.get("load_in_8bit") else "nf4"
    return {"stored_as": kind, "stored_double": bool(quantization.get("bnb_4bit_use_double_quant"))}


class _Fields:
    """The fields of a config, with the defaults of transformers where they are given."""

    def __init__(self, config: Config, where: str) -> None:
        self.config = config
        self.where = where
        self.family = str(config["model_type"])

    def count(self, *names: str, default: int | None = None) -> int:
        """A whole number above 0 under the first of these names. Raises ModelError without one."""
        for name in names:
            value = self.config.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ModelError(f"{self.where}: {name} should be a whole number above 0, found {value!r}")
            return value
        if default is None:
            raise ModelError(f"{self.where}: a '{self.family}' config needs {names[0]}, which is not there")
        return default

    def flag(self, name: str, default: bool) -> bool:
        """A switch."""
        value = self.config.get(name)
        return default if value is None else bool(value)


def _llama_like(fields: _Fields) -> ModelShape:
    """Llama, Mistral, Qwen2, Qwen3, Gemma and their kin: q, k, v, o and a gated block, RMS norms."""
    family = fields.family
    gemma = family.startswith("gemma")
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads", default=heads)
    head_dim = fields.count("head_dim", default=HEAD_DIM.get(family, hidden // heads))
    ffn = fields.count("intermediate_size")
    qkv_bias = family == "qwen2" or fields.flag("attention_bias", False)
    mlp_bias = fields.flag("mlp_bias", False)
    linears = (
        Linear("self_attn.q_proj", hidden, heads * head_dim, qkv_bias),
        Linear("self_attn.k_proj", hidden, kv_heads * head_dim, qkv_bias),
        Linear("self_attn.v_proj", hidden, kv_heads * head_dim, qkv_bias),
        Linear("self_attn.o_proj", heads * head_dim, hidden, qkv_bias and family != "qwen2", reads="attention"),
        Linear("mlp.gate_proj", hidden, ffn, mlp_bias),
        Linear("mlp.up_proj", hidden, ffn, mlp_bias),
        Linear("mlp.down_proj", ffn, hidden, mlp_bias, reads="block"),
    )
    names = ["input_layernorm", "post_attention_layernorm"]
    if family in ("gemma2", "gemma3_text"):
        names += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    if family == "olmo2":
        names = ["post_attention_layernorm", "post_feedforward_layernorm"]
    norms = [Norm(name, hidden) for name in names]
    if family in ("qwen3", "gemma3_text"):
        norms += [Norm("self_attn.q_norm", head_dim), Norm("self_attn.k_norm", head_dim)]
    if family == "olmo2":
        norms += [Norm("self_attn.q_norm", heads * head_dim), Norm("self_attn.k_norm", kv_heads * head_dim)]
    return _decoder(fields, linears, norms, kv_heads=kv_heads, head_dim=head_dim, ffn=ffn, tied=gemma)


def _phi3(fields: _Fields) -> ModelShape:
    """Phi-3 and Phi-4: q, k and v in one product, gate and up in another."""
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads", default=heads)
    head_dim, ffn = fields.count("head_dim", default=hidden // heads), fields.count("intermediate_size")
    linears = (
        Linear("self_attn.o_proj", heads * head_dim, hidden, reads="attention"),
        Linear("self_attn.qkv_proj", hidden, (heads + 2 * kv_heads) * head_dim),
        Linear("mlp.gate_up_proj", hidden, 2 * ffn),
        Linear("mlp.down_proj", ffn, hidden, reads="block"),
    )
    norms = [Norm("input_layernorm", hidden), Norm("post_attention_layernorm", hidden)]
    return _decoder(fields, linears, norms, kv_heads=kv_heads, head_dim=head_dim, ffn=ffn)


def _decoder(
    fields: _Fields,
    linears: tuple[Linear, ...],
    norms: list[Norm],
    *,
    kv_heads: int,
    head_dim: int,
    ffn: int,
    tied: bool = False,
) -> ModelShape:
    """A gated decoder under `model.layers` with RMS norms."""
    hidden, vocab = fields.count("hidden_size"), fields.count("vocab_size")
    return ModelShape(
        family=fields.family,
        hidden=hidden,
        layers=fields.count("num_hidden_layers"),
        heads=fields.count("num_attention_heads"),
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        gated=True,
        vocab=vocab,
        positions=fields.count("max_position_embeddings", default=2048),
        tied=fields.flag("tie_word_embeddings", tied),
        layer_path="model.layers",
        layer_linears=linears,
        layer_norms=tuple(norms),
        embeddings=(Embedding("model.embed_tokens", vocab, hidden),),
        last_norms=(Norm("model.norm", hidden),),
        head=Linear("lm_head", hidden, vocab),
        scores="capped" if fields.family == "gemma2" else "fused",
    )


def _gpt2(fields: _Fields) -> ModelShape:
    """GPT-2: learned positions, LayerNorms, biases everywhere, `Conv1D` for linear layers."""
    hidden, heads = fields.count("n_embd", "hidden_size"), fields.count("n_head", "num_attention_heads")
    ffn = fields.count("n_inner", default=4 * hidden)
    vocab, positions = fields.count("vocab_size"), fields.count("n_positions", default=1024)
    return ModelShape(
        family=fields.family,
        hidden=hidden,
        layers=fields.count("n_layer", "num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=ffn,
        gated=False,
        vocab=vocab,
        positions=positions,
        tied=fields.flag("tie_word_embeddings", True),
        layer_path="transformer.h",
        layer_linears=(
            Linear("attn.c_attn", hidden, 3 * hidden, True),
            Linear("attn.c_proj", hidden, hidden, True, reads="attention"),
            Linear("mlp.c_fc", hidden, ffn, True),
            Linear("mlp.c_proj", ffn, hidden, True, reads="block"),
        ),
        layer_norms=(Norm("ln_1", hidden, True), Norm("ln_2", hidden, True)),
        embeddings=(
            Embedding("transformer.wte", vocab, hidden),
            Embedding("transformer.wpe", positions, hidden),
        ),
        last_norms=(Norm("transformer.ln_f", hidden, True),),
        head=Linear("lm_head", hidden, vocab),
        rotary=False,
        activation="composed",
        norm="layer",
    )


def _gpt_neox(fields: _Fields) -> ModelShape:
    """GPT-NeoX and Pythia: q, k and v in one product, rotary positions, LayerNorms."""
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    ffn, vocab = fields.count("intermediate_size"), fields.count("vocab_size")
    bias = fields.flag("attention_bias", True)
    return ModelShape(
        family=fields.family,
        hidden=hidden,
        layers=fields.count("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=ffn,
        gated=False,
        vocab=vocab,
        positions=fields.count("max_position_embeddings", default=2048),
        tied=fields.flag("tie_word_embeddings", False),
        layer_path="gpt_neox.layers",
        layer_linears=(
            Linear("attention.query_key_value", hidden, 3 * hidden, bias),
            Linear("attention.dense", hidden, hidden, bias, reads="attention"),
            Linear("mlp.dense_h_to_4h", hidden, ffn, True),
            Linear("mlp.dense_4h_to_h", ffn, hidden, True, reads="block"),
        ),
        layer_norms=(Norm("input_layernorm", hidden, True), Norm("post_attention_layernorm", hidden, True)),
        embeddings=(Embedding("gpt_neox.embed_in", vocab, hidden),),
        last_norms=(Norm("gpt_neox.final_layer_norm", hidden, True),),
        head=Linear("lm_head", hidden, vocab),
        norm="layer",
    )


def _opt(fields: _Fields) -> ModelShape:
    """OPT: learned positions (two more than it reads), LayerNorms, a narrower embedding in the smallest ones."""
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    ffn, vocab = fields.count("ffn_dim"), fields.count("vocab_size")
    narrow = fields.count("word_embed_proj_dim", default=hidden)
    positions = fields.count("max_position_embeddings", default=2048)
    bias, affine = fields.flag("enable_bias", True), fields.flag("layer_norm_elementwise_affine", True)
    ends = fields.flag("do_layer_norm_before", True) and not fields.flag("_remove_final_layer_norm", False)
    attention = (
        *(Linear(f"self_attn.{name}", hidden, hidden, bias) for name in ("k_proj", "v_proj", "q_proj")),
        Linear("self_attn.out_proj", hidden, hidden, bias, "attention"),
    )
    outer = (
        Linear("model.decoder.project_out", hidden, narrow),
        Linear("model.decoder.project_in", narrow, hidden),
    )
    return ModelShape(
        family=fields.family,
        hidden=hidden,
        layers=fields.count("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=ffn,
        gated=False,
        vocab=vocab,
        positions=positions,
        tied=fields.flag("tie_word_embeddings", True),
        layer_path="model.decoder.layers",
        layer_linears=(*attention, Linear("fc1", hidden, ffn, bias), Linear("fc2", ffn, hidden, bias, "block")),
        layer_norms=tuple(Norm(name, hidden, affine, affine) for name in ("self_attn_layer_norm", "final_layer_norm")),
        embeddings=(
            Embedding("model.decoder.embed_tokens", vocab, narrow),
            Embedding("model.decoder.embed_positions", positions + 2, hidden),
        ),
        outer_linears=outer if narrow != hidden else (),
        last_norms=(Norm("model.decoder.final_layer_norm", hidden, affine, affine),) if ends else (),
        head=Linear("lm_head", narrow, vocab),
        rotary=False,
        activation="relu" if fields.config.get("activation_function", "relu") == "relu" else "one",
        norm="layer",
    )


def _bloom(fields: _Fields) -> ModelShape:
    """BLOOM: q, k and v in one product, distances instead of positions (ALiBi), a norm behind the embedding."""
    hidden, heads = fields.count("hidden_size", "n_embed"), fields.count("n_head", "num_attention_heads")
    vocab = fields.count("vocab_size")
    return ModelShape(
        family=fields.family,
        hidden=hidden,
        layers=fields.count("n_layer", "num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=4 * hidden,
        gated=False,
        vocab=vocab,
        positions=fields.count("seq_length", default=2048),
        tied=fields.flag("tie_word_embeddings", True),
        layer_path="transformer.h",
        layer_linears=(
            Linear("self_attention.query_key_value", hidden, 3 * hidden, True),
            Linear("self_attention.dense", hidden, hidden, True, reads="attention"),
            Linear("mlp.dense_h_to_4h", hidden, 4 * hidden, True),
            Linear("mlp.dense_4h_to_h", 4 * hidden, hidden, True, reads="block"),
        ),
        layer_norms=(Norm("input_layernorm", hidden, True), Norm("post_attention_layernorm", hidden, True)),
        embeddings=(Embedding("transformer.word_embeddings", vocab, hidden),),
        last_norms=(
            Norm("transformer.word_embeddings_layernorm", hidden, True),
            Norm("transformer.ln_f", hidden, True),
        ),
        head=Linear("lm_head", hidden, vocab),
        rotary=False,
        scores="kept",
        norm="layer",
    )


FAMILIES: dict[str, Callable[[_Fields], ModelShape]] = {
    **dict.fromkeys(
        (
            "llama",
            "mistral",
            "qwen2",
            "qwen3",
            "gemma",
            "gemma2",
            "gemma3_text",
            "granite",
            "smollm3",
            "olmo2",
        ),
        _llama_like,
    ),
    "phi3": _phi3,
    "bloom": _bloom,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
}
"""How each `model_type` is built."""

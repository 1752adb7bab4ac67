"""How many parameters peft's ShadowPEFT trains: a small model of the same kind beside the large one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ftune.core.errors import ModelError
from ftune.peft.places import copies, trained
from ftune.plan.adapter import Adapter
from ftune.plan.shape import ModelShape


def shadow(shape: ModelShape, keys: Mapping[str, Any]) -> Adapter:
    """A shadow of one layer or more with its last norm, and in each layer a pair of thin matrices and two small MLPs.

    peft 0.21 adapts all layers whatever `layers` says, as it names them in full, and shares embeddings only where they
    are called `embed_tokens`: the shadow of a GPT-2 trains its own. A classifier's head trains twice.
    """
    made = _mirror(shape, keys)
    shares = keys["share_embeddings"] and made.hidden == shape.hidden
    tables = sum(table.parameters for table in made.embeddings if not (shares and table.name.endswith("embed_tokens")))
    last = sum(norm.parameters for norm in made.last_norms) + sum(one.parameters for one in made.outer_linears)
    body = made.layers * made.layer_parameters + last
    projection = made.hidden * shape.hidden if made.hidden != shape.hidden else 0
    rank, d = keys["r"], shape.hidden
    width = keys["update_hidden_size"] or rank
    update = 2 * (2 * d * width + width + d)
    counts = {f"{shape.layer_path}.{index}": 2 * rank * d + update for index in range(shape.layers)}
    counts[f"{shape.layer_path}.{shape.layers - 1}"] -= update  # which nothing reads
    head = sum(part.parameters for part in copies(shape).values())
    return trained(
        shape,
        counts,
        shared=tables + body + projection + head,
        frozen=update,
        modules_to_save=keys["modules_to_save"] or (),
        # two MLPs and the gate, the thin pair; and a share of the shadow's own layers, which train as a whole
        saved=(shape.layers - 1) * (6 * d + 4 * width) + shape.layers * (d + rank) + made.layers * _own(made),
    )


def _own(made: ModelShape) -> int:
    """About what a token keeps in a layer of the shadow: the stream and its norms, attention, the block."""
    return 8 * made.hidden + 2 * (made.query_width + made.kv_width) + 3 * made.ffn


def _mirror(shape: ModelShape, keys: Mapping[str, Any]) -> ModelShape:
    """The shadow's shape. Raises ModelError where another width cannot be worked out."""
    layers = keys["shadow_num_hidden_layers"] or 1
    asked = {
        "hidden": keys["shadow_hidden_size"] or shape.hidden,
        "heads": keys["shadow_num_attention_heads"] or shape.heads,
        "ffn": keys["shadow_intermediate_size"] or shape.ffn,
    }
    if asked == {"hidden": shape.hidden, "heads": shape.heads, "ffn": shape.ffn}:
        return replace(shape, layers=layers)
    if not all(linear.name in _WIDTHS for linear in shape.layer_linears):
        raise ModelError(
            f"peft.shadow_hidden_size: a shadow of other widths cannot be planned for '{shape.family}'; leave out "
            "'shadow_hidden_size', 'shadow_num_attention_heads' and 'shadow_intermediate_size'"
        )
    hidden = asked["hidden"]
    # a config that says its `head_dim`, as all of these do once made, keeps it whatever the width (transformers 5)
    sizes = {**asked, "queries": asked["heads"] * shape.head_dim, "keys": shape.kv_width}
    linears = []
    for linear in shape.layer_linears:
        inputs, outputs = (sizes[side] for side in _WIDTHS[linear.name])
        linears.append(replace(linear, inputs=inputs, outputs=outputs))
    return replace(
        shape,
        hidden=hidden,
        layers=layers,
        layer_linears=tuple(linears),
        layer_norms=tuple(
            replace(norm, width=hidden) if norm.width == shape.hidden else norm for norm in shape.layer_norms
        ),
        last_norms=tuple(replace(norm, width=hidden) for norm in shape.last_norms),
        embeddings=tuple(replace(table, width=hidden) for table in shape.embeddings),
    )


_WIDTHS = {
    "self_attn.q_proj": ("hidden", "queries"),
    "self_attn.k_proj": ("hidden", "keys"),
    "self_attn.v_proj": ("hidden", "keys"),
    "self_attn.o_proj": ("queries", "hidden"),
    "mlp.gate_proj": ("hidden", "ffn"),
    "mlp.up_proj": ("hidden", "ffn"),
    "mlp.down_proj": ("ffn", "hidden"),
}
"""Inputs and outputs of the layers of a Llama and its kin."""

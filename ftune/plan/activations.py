"""What the forward pass keeps for the backward pass, as transformers' layers and peft's adapters keep it.

Counted per token and decoder layer, as in arXiv:2205.05198 (section 4.1), whose formula 34 sbh is that of GPT-3 without
fused attention: here norms are computed in fp32, attention keeps no scores, feed-forward blocks are gated, and frozen
weights need no inputs. Of a compiled layer is kept what a matrix product gives, or reads in the backward pass; all that
is elementwise is computed again (`torch._functorch.partitioners`, as inductor calls it). h is the width of the stream,
q and k those of queries and keys, f that of the block, b the bytes of products. The tests hold the sums against what
autograd really saves.
"""

from ftune.plan import folded
from ftune.plan.job import Job
from ftune.plan.shape import Linear, Norm

FP32 = 4

BACK = 2
"""Layers' inputs that are on the device where they are offloaded: one in use, one on its way."""

SCALED_IN_FP32 = ("gemma", "gemma2", "gemma3_text", "olmo2")
"""Families whose norms multiply with their scale before they cast back."""


def saved_layer(job: Job, *, first: bool = False) -> int:
    """Bytes that one decoder layer keeps for a micro-batch. In the `first` that trains, nothing flows into its norm."""
    each = _norms(job, first=first) + _attention(job) + _inputs(job) + _block(job)
    matrices = job.width * job.dense + FP32 * job.adapter.dense_fp32
    return job.batch_tokens * each + _masks(job) + matrices // job.shape.layers


def saved(job: Job) -> int:
    """Bytes that all layers keep, without checkpointing."""
    layers = job.shape.layers - job.adapter.lowest_layer
    starts_late = not (job.full or job.adapter.virtual_tokens or job.compiled)  # one graph does for all layers
    late = saved_layer(job, first=True) - saved_layer(job) if starts_late else 0
    return layers * saved_layer(job) + late + _once(job)


def inputs(job: Job) -> int:
    """Bytes of all layers' inputs, which checkpointing keeps (arXiv:1604.06174), and of what it cannot drop.

    bitsandbytes' int8 product keeps its input where checkpointing does not reach it (seen in 0.50).
    """
    layers, kept = job.shape.layers, 0
    if job.quantization == "int8":
        kept = job.batch_tokens * job.width * sum(linear.inputs for linear in job.shape.layer_linears)
    return layers * kept + min(layers, BACK if job.offload else layers) * _input(job) + _once(job)


def away(job: Job) -> int:
    """Bytes of layers' inputs in the CPU's memory."""
    return job.shape.layers * _input(job) if job.offload else 0


def _input(job: Job) -> int:
    """Bytes of one layer's input."""
    return job.batch_tokens * job.stream_width * job.shape.hidden


def last_norm(job: Job) -> int:
    """Bytes that the norm behind the last layer keeps until the head is done."""
    return job.batch_tokens * sum(_norm(job, norm.width) for norm in job.shape.last_norms)


def passing(job: Job) -> int:
    """Bytes that come and go within one layer's backward pass, at its largest: where the block's product is undone.

    Gradients of the block's wide vectors, of the stream and of its fp32 norm. An adapter that reads the block's product
    itself frees it on the way, where that of others is copied in fp32. Without fused attention gradients of the scores
    may be more, and so may be what a method makes whole matrices of.
    """
    shape = job.shape
    alone = len(job.adapter.low_rank) > 0 and not (_copies_inputs(job) or job.folded)
    wide = (3 if shape.gated else 2) - alone
    block = wide * job.width * shape.ffn + (job.width + FP32) * shape.hidden
    scores = shape.heads * row_tokens(job) * (2 * FP32 + job.width) if job.eager else 0
    return max(job.batch_tokens * max(block, scores), _matrices(job)) + folded.unpacked(job)


def _matrices(job: Job) -> int:
    """Bytes of matrices that the widest layer's adapter makes and drops, and of the input in fp32 that waits for it.

    The forward pass of the last layer ends with them, when nearly all is kept that will be.
    """
    made = job.width * job.adapter.passing + FP32 * job.adapter.passing_fp32
    waiting = FP32 * job.shape.ffn if _copies_inputs(job) else 0
    return made + job.batch_tokens * waiting if made else 0


def working(job: Job) -> int:
    """Bytes that come and go in one layer of a forward pass without gradients."""
    wide = 3 if job.shape.gated else 2
    copies = FP32 * job.shape.ffn if job.adapter.low_rank else 0
    return job.batch_tokens * (wide * job.width * job.shape.ffn + copies + (2 * job.width + FP32) * job.shape.hidden)


def masked(job: Job) -> bool:
    """Whether attention gets a mask as a tensor: packed rows must not see each other, padding must not be seen.

    PPO pads on the right alone, where causal attention does not look.
    """
    if job.flat or job.attention in ("flash_attention_2", "flex_attention") or job.kind == "ppo":
        return False  # lengths or blocks say the same
    return job.packed or job.adapter.prefix_tokens > 0 or not (job.equal_rows or job.micro_batch_size == 1)


def trains_linears(job: Job) -> bool:
    """Whether the layers' own weights train, so that they need their inputs."""
    layers = job.shape.layers - job.adapter.lowest_layer
    return job.adapter.base > 0 and job.adapter.base >= layers * job.shape.layer_weights


def _norm(job: Job, width: int, *, inside: bool = False) -> int:
    """An RMS norm keeps its input in fp32 and a number a row, and where its scale trains, what that multiplies.

    Those `inside` of attention have the dtype of products, the others that of the stream.
    """
    if job.shape.norm == "layer":  # its input in fp32, mean and deviation
        return FP32 * width + 2 * FP32
    scaled = job.width if inside else job.stream_width
    scaled = FP32 if job.shape.family in SCALED_IN_FP32 else scaled
    return FP32 * width + FP32 + (scaled * width if trains_linears(job) else 0)


def _norms(job: Job, *, first: bool) -> int:
    """Of all norms of a layer.

    A compiled layer keeps the stream as it comes in and each product that is added to it or normalised, with a number
    for each row that is: norms are computed again.
    """
    norms = job.shape.layer_norms[1:] if first else job.shape.layer_norms
    stream = (job.stream_width - job.width) * job.shape.hidden if job.compiled and not first else 0
    return stream + sum(_repeated(job, norm) * (_norm_of_layer(job, norm) - _there(job, norm)) for norm in norms)


def _norm_of_layer(job: Job, norm: Norm) -> int:
    if job.compiled:
        return job.width * norm.width + FP32
    return _norm(job, norm.width, inside=_heads_of(job, norm) > 0)


def _there(job: Job, norm: Norm) -> int:
    """Bytes of a norm's input that are there already: of queries and keys, where values keep all that they are with."""
    shares = (job.compiled or job.width == FP32) and folded.beside_values(job) > 0 and _heads_of(job, norm) > 0
    return job.width * norm.width if shares else 0


def _heads_of(job: Job, norm: Norm) -> int:
    """Of a norm inside of attention, the heads that it is for; 0 of others."""
    heads = {"q_norm": job.shape.heads, "k_norm": job.shape.kv_heads}
    return heads.get(norm.name.rpartition(".")[2], 0)


def _repeated(job: Job, norm: Norm) -> int:
    """How often it is computed for a token: for each head, where it is as wide as one."""
    return max(1, _heads_of(job, norm)) if norm.width == job.shape.head_dim else 1


def _attention(job: Job) -> int:
    """Queries, keys and values, the result, and the logarithm of each sum (arXiv:2205.14135, algorithm 2).

    With a mask, keys and values are repeated for all query heads; without, values that one product makes together with
    queries and keys keep all of it, as those of layers that are folded into one do. Without fused attention the scores
    are kept too, in fp32 and in the dtype of products, for each token one of every other.
    """
    shape, width = job.shape, job.width
    repeats = masked(job) or job.eager
    keys_and_values = 2 * (shape.query_width if repeats else shape.kv_width)
    together = shape.query_width + 2 * shape.kv_width
    if shape.rotary and any(linear.outputs == together for linear in shape.layer_linears):
        keys_and_values += 0 if repeats and shape.heads > shape.kv_heads else shape.query_width + shape.kv_width
    keys_and_values += folded.beside_values(job)
    if job.eager:
        each = FP32 + (width if width < FP32 else 0) + (width if shape.scores == "capped" else 0)
        scores = shape.heads * row_tokens(job) * each
        return width * (shape.query_width + keys_and_values) + scores
    return width * (2 * shape.query_width + keys_and_values) + FP32 * shape.heads


def _block(job: Job) -> int:
    """The feed-forward block: what its activation reads; where it is gated also what that gives and is multiplied with.

    GPT-2's GELU is composed of a power and a tanh in fp32, and of two products. A compiled layer keeps the products
    alone.
    """
    if job.compiled:
        return (2 if job.shape.gated else 1) * job.width * job.shape.ffn
    if job.shape.activation == "composed":
        return (3 * FP32 + job.width) * job.shape.ffn
    return (3 if job.shape.gated else 1) * job.width * job.shape.ffn


def _inputs(job: Job) -> int:
    """Inputs of products whose weights train, or that have an adapter beside them.

    Autocast makes a copy for each product where the input is fp32, as it is behind a norm in fp32, and as peft makes
    it for adapters on weights that are not quantised, but for those that make a weight anew and read what it would.
    Otherwise what reads the same input shares it, and the input of the layer behind attention is there already: but
    where attention is computed a row at a time, whose results are laid together in a tensor of their own. A compiler
    makes the same copy once. For products in FP8 it scales and rounds inputs again in the backward pass, all but what
    attention gives.
    """
    if job.fp8:
        return sum(linear.inputs for linear in job.shape.layer_linears if linear.reads == "attention")
    ranks = dict(job.adapter.low_rank)
    trains = trains_linears(job)
    reading = [linear for linear in job.shape.layer_linears if trains or linear.name in ranks]
    copied = _copies_inputs(job)
    total = (folded.columns(job) if job.folded else sum(ranks.values())) * job.width
    total += int(job.adapter.saved * job.width + job.adapter.saved_fp32 * _adapters_width(job))
    seen: set[tuple[str, str]] = set()
    for linear in reading:
        beside = linear.name in ranks
        cast, dropped = copied and (linear.reads == "stream" or beside), beside and job.dropout > 0
        source = folded.source(linear)
        if dropped or (cast and not job.compiled) or source not in seen:
            whole = not job.eager and (job.on_gpu or not job.flat)
            kept = (linear.reads == "attention" and whole) or (
                linear.reads == "block" and job.shape.activation == "relu"
            )
            there = kept and not (cast or dropped)
            total += 0 if there else job.width * linear.inputs
        seen.add(source)
    return total + (_dropped(reading) if job.dropout else 0)


def _copies_inputs(job: Job) -> bool:
    """Whether a product whose weights train, or an adapter, gets a copy of its input of its own."""
    if job.width == FP32 or job.folded:
        return False
    if trains_linears(job):
        return job.stream_width == FP32
    unlike = _adapters_width(job) > job.width
    return unlike and job.quantization == "none" and not job.adapter.shares_inputs


def _adapters_width(job: Job) -> int:
    """Bytes of a number of an adapter: ZeRO and FSDP2 keep it in the dtype of products."""
    return job.width if job.split or job.spread.type == "zero" else FP32


def _dropped(reading: list[Linear]) -> int:
    """Dropout keeps a byte for each number that it may drop."""
    return sum(linear.inputs for linear in reading)


def row_tokens(job: Job) -> int:
    """Tokens that one token's scores are for: of its row, or of the whole micro-batch where rows are packed."""
    own = job.tokens + job.adapter.virtual_tokens + job.adapter.prefix_tokens
    if job.flat:
        return job.own_tokens or own
    return job.batch_tokens if job.packed else own


def _masks(job: Job) -> int:
    """Each layer's copy of the mask in the dtype of products: SDPA's kernels add it to the scores."""
    if not masked(job) or job.eager or job.attention != "sdpa":
        return 0
    return job.width * job.batch_tokens * row_tokens(job)


def made_mask(job: Job) -> int:
    """The mask as it is made, once for all layers: a byte a score."""
    return job.batch_tokens * row_tokens(job) if masked(job) else 0


def _once(job: Job) -> int:
    """Cosines and sines and the mask, for all layers, and token ids where embeddings train."""
    places = job.batch_tokens if job.flat else row_tokens(job)  # flat rows each begin anew
    rotary = 2 * places * job.stream_width * job.shape.head_dim if job.shape.rotary else 0
    return rotary + made_mask(job) + (8 * job.batch_tokens if job.full else 0)

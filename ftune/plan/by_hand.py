"""A model's shape from a few numbers, as on a command line."""

from math import sqrt

from ftune.core.errors import ModelError
from ftune.plan.families import shape_of_config
from ftune.plan.shape import ModelShape


def shape_by_hand(
    *,
    parameters: int,
    layers: int | None = None,
    hidden: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    ffn: int | None = None,
    vocab: int = 32_000,
) -> ModelShape:
    """A Llama of about that many parameters; what is not given is chosen as models of that size have it.

    A feed-forward block is 8/3 as wide as the model (arXiv:2002.05202), so that a layer has 12 d^2 numbers, and a model
    is about 128 times as wide as it is deep (arXiv:2001.08361, figure 5). Its width is then chosen so that the
    parameters come out as asked. Raises ModelError where no such model can be.
    """
    given = {"params": parameters, "layers": layers, "hidden": hidden, "heads": heads, "kv-heads": kv_heads, "ffn": ffn}
    for name, number in {**given, "vocab": vocab}.items():
        if number is not None and number < 1:
            raise ModelError(f"--{name}: should be above 0, found {number}")
    width = hidden or _width(parameters, layers, vocab)
    deep = layers or max(1, round((parameters - 2 * vocab * width) / (12 * width * width)))
    if parameters <= 2 * vocab * width:
        raise ModelError(
            f"--params: {parameters:,} parameters are fewer than the embedding and head of {vocab:,} x {width:,} have; "
            "give a smaller --hidden or --vocab"
        )
    count = heads or max(1, width // 128)
    if width % count:
        raise ModelError(f"--heads: {count} heads do not divide a width of {width}")
    groups = kv_heads or count
    if count % groups:
        raise ModelError(f"--kv-heads: {groups} do not divide {count} heads")
    in_layer = (parameters - 2 * vocab * width) // deep - 2 * width * (width + width // count * groups)
    if not ffn and in_layer < 3 * width:
        raise ModelError(
            f"--params: {deep} layers of width {width} have more than {parameters:,} parameters already in attention; "
            "give fewer --layers or a smaller --hidden"
        )
    inner = ffn or round(in_layer / (3 * width))
    return shape_of_config(
        {
            "model_type": "llama",
            "hidden_size": width,
            "num_hidden_layers": deep,
            "num_attention_heads": count,
            "num_key_value_heads": groups,
            "intermediate_size": inner,
            "vocab_size": vocab,
            "tie_word_embeddings": False,
        }
    )


def _width(parameters: int, layers: int | None, vocab: int) -> int:
    """The width, a multiple of 128, at which 12 d^2 numbers a layer and two vocabularies make the parameters."""
    if layers:
        return max(128, 128 * round((sqrt(vocab**2 + 12 * layers * parameters) - vocab) / (12 * layers) / 128))
    widths = range(128, 65_537, 128)
    return min(widths, key=lambda width: abs(12 * width**3 / 128 + 2 * vocab * width - parameters))

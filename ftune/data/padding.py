"""A padding token that no row ends with, so that the last token which is not padding is a row's own last one.

transformers reads the score of a row there. With pad == eos, as SmolLM2, Llama and GPT-2 have it, it would skip the EOS
at a row's end.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ftune.core.errors import DataError
from ftune.core.several import several
from ftune.data.checks import Check
from ftune.data.table import TokenTable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "no row ends with the padding token"


def pad_within(tokenizer: "PreTrainedTokenizerBase", vocab_size: int) -> None:
    """Let `tokenizer` pad with its end of text where the model of so many tokens does not know its padding token.

    Such tokens were added to a tokenizer alone. What stands in for padding does not matter: it is masked by position.
    """
    if int(tokenizer.pad_token_id) >= vocab_size and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token


def pad_with_unused(tokenizer: "PreTrainedTokenizerBase", tables: Sequence[TokenTable], vocab_size: int) -> Check:
    """Let `tokenizer` pad with such a token, and say which it is: its own, or a special one that rows do not have.

    It is one that the model of so many tokens knows. A special token that is in no row goes before one that only never
    ends a row. Raises DataError where there is none.
    """
    ends = _different([table.ids[table.ends - 1] for table in tables])
    used = _different([table.ids for table in tables])
    own, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    special = sorted(number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    named = {eos, tokenizer.bos_token_id, tokenizer.unk_token_id}
    unnamed = [number for number in special if number not in named]
    candidates = [
        *([own] if own != eos else []),
        *(number for number in unnamed if number not in used),
        *unnamed,
        *(number for number in (tokenizer.unk_token_id, tokenizer.bos_token_id) if number is not None),
    ]
    known = (number for number in candidates if number < vocab_size)
    chosen = next((number for number in known if number != eos and number not in ends), None)
    if chosen is None:
        raise DataError(
            "model.path: every special token of this tokenizer ends rows, so none is left to pad with; "
            "add one to the tokenizer"
        )
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(chosen)
    tokenizer.padding_side = "right"
    rows = sum(len(table) for table in tables)
    return Check(NAME, ok=True, detail=f"'{tokenizer.pad_token}'; {several(rows, 'row')}")


def _different(arrays: Sequence[NDArray[np.int32]]) -> set[int]:
    return {int(number) for array in arrays for number in np.unique(array)}

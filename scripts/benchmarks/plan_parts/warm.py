"""Everything that a run imports, without touching a GPU: to be forked from."""

import sys

OPENS_A_GPU = "bitsandbytes"

# peft 0.21 imports it where it is there, and it asks the GPU for its kind, after which a forked process cannot use one
sys.modules[OPENS_A_GPU] = None  # type: ignore[assignment]
import peft.import_utils  # noqa: E402

import plan_parts.measuring  # noqa: E402, F401

del sys.modules[OPENS_A_GPU]
for known in (peft.import_utils.is_bnb_available, peft.import_utils.is_bnb_4bit_available):
    known.cache_clear()  # or it would go on as if there were none

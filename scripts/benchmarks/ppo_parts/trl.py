"""TRL 1.12's experimental PPO on the same work: run as a program of its own, with that version first on the path."""

import sys
import tempfile
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ppo_parts.work import (
    LARGE,
    TINY,
    Result,
    Work,
    attempts,
    base_model,
    gib,
    lora_settings,
    random_prompts,
    synchronised,
    word_tokenizer,
)

if TYPE_CHECKING:
    from transformers import TrainerCallback


def trl_iteration(work: Work, updates: int = 3) -> Result:
    """Iterations of its trainer as it ships: LoRA policy, adapter off as reference, full value and reward models."""
    from transformers import TrainerCallback
    from trl.experimental.ppo import ppo_trainer

    sampled: list[float] = []
    ended: list[float] = []
    batch_generation = ppo_trainer.batch_generation

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = synchronised()
        made = batch_generation(*args, **kwargs)
        sampled.append(synchronised() - started)
        return made

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ended.append(synchronised())

    ppo_trainer.batch_generation = timed
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(work, folder, updates, Clock())
        loaded, started = gib("memory_allocated"), synchronised()
        trainer.train()
    ends = [started, *ended]
    iterations = [after - before for before, after in pairwise(ends)]
    return {
        "part": "trl",
        "case": "TRL 1.12",
        "tokens_per_s": round(work.prompts * work.new_tokens / min(sampled)),
        "iteration_s": [round(each, 3) for each in iterations],
        "rollout_s": [round(each, 3) for each in sampled[: len(iterations)]],
        "loaded_gib": loaded,
        "peak_gib": gib("max_memory_allocated"),
    }


def trl_trainer(work: Work, folder: str, updates: int, callback: "TrainerCallback") -> Any:
    """Its trainer, ready for so many iterations."""
    import torch
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    data = Dataset.from_dict({"input_ids": [prompt for seed in range(updates) for prompt in random_prompts(work)]})
    micro, on_gpu = min(8, work.prompts), torch.cuda.is_available()
    settings = PPOConfig(
        output_dir=folder,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=work.prompts // micro,
        num_mini_batches=1,
        num_ppo_epochs=1,
        total_episodes=work.prompts * updates,
        response_length=work.new_tokens,
        local_rollout_forward_batch_size=min(64, work.prompts),
        num_sample_generations=0,
        temperature=1.0,
        report_to=[],
        save_strategy="no",
        bf16=on_gpu,
        use_cpu=not on_gpu,
        disable_tqdm=True,
        gradient_checkpointing=False,
    )
    scoring = "AutoModelForSequenceClassification"
    return PPOTrainer(
        args=settings,
        processing_class=word_tokenizer(work),
        model=base_model(work),
        ref_model=None,
        reward_model=base_model(work, scoring, 1, num_labels=1),
        value_model=base_model(work, scoring, 2, num_labels=1),
        train_dataset=data,
        eval_dataset=data.select(range(work.prompts)),
        peft_config=lora_settings(),
        callbacks=[callback],
    )


if __name__ == "__main__":
    attempts("TRL 1.12", partial(trl_iteration, TINY if "--tiny" in sys.argv else LARGE))

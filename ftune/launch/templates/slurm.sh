#!/bin/bash
# ftune runs {{ job.recipe | string | yaml }}; nodes: {{ job.nodes }}, GPUs on each: {{ job.gpus_per_node }}. Send it with 'sbatch THIS_FILE'.
#
# Storage that all nodes share has to hold the recipe, its rows and models, and the folder of the run:
#   {{ shared | yaml }}
#
# Three minutes before its time is over, the run gets SIGTERM: it saves and ends with 75, and the job is queued again.
# Each time it goes on from its newest checkpoint, and in the same file of output.
#
#SBATCH --job-name={{ name }}
#SBATCH --nodes={{ job.nodes }}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={{ job.gpus_per_node }}
{% for option, value in options.items() %}
#SBATCH --{{ option }}={{ value }}
{% endfor %}
#SBATCH --signal=TERM@{{ notice_s }}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.txt

set -euo pipefail
cd -- {{ workdir | sh }}
{% if path %}
export PATH={{ path | sh }}:$PATH
{% endif %}

run={{ job.output_dir | sh }}
job=slurm-$SLURM_JOB_ID # names of this job's own small files, in the shared folder
again=3                 # times to be queued again without a newer checkpoint

# All nodes meet on the first one. A job that is queued again keeps its number, and so its port.
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=${hosts[0]:?'scontrol names no host'}:$(({{ first_port }} + SLURM_JOB_ID % {{ ports }}))

# On each node one launcher, which starts a process a GPU. Slurm's signal reaches every process of the step: this shell
# only outlives it, the launcher passes it on once. srun kills all nodes when one ends with an error. {{ stopped }} is none: the
# others may still be saving. With another one they get time to end by themselves. The code of node 0 is the run's.
# shellcheck disable=SC2016  # expanded on the node
node='
trap : TERM
code=0
ftune launch node "$@" --node-rank "$SLURM_NODEID" || code=$?
if [ "$SLURM_NODEID" = 0 ]; then echo "$code" >"slurm-$SLURM_JOB_ID.code"; fi
case $code in
  0 | {{ stopped }}) exit 0 ;;
  *) sleep {{ grace_s }}; exit "$code" ;;
esac
'

# To this shell Slurm sends SIGTERM only when the job is cancelled or out of time: then it is not queued again here.
ended=
trap 'ended=yes' TERM

rm -f -- "$job.code"
code=0
srun --nodes={{ job.nodes }} --ntasks-per-node=1 --kill-on-bad-exit=1 --cpu-bind=none \
{% for word in srun %}
  {{ word | sh }} \
{% endfor %}
  bash -c "$node" node \
  {{ job.run | sh }} \
  --nodes {{ job.nodes }} --num-processes {{ job.gpus_per_node }} --address "$address" --resume || code=$?

said=$code
if [ -s "$job.code" ]; then said=$(<"$job.code"); fi
if [ "$code" = 0 ] || [[ $said != 0 && $said != {{ stopped }} ]]; then code=$said; fi
rm -f -- "$job.code"

if [ "$code" = {{ stopped }} ] && [ -n "$ended" ]; then
  echo "stopped and saved; not queued again, for Slurm has ended the job (scancel, or out of time)" >&2
fi
if [ "$code" != {{ stopped }} ] || [ -n "$ended" ]; then
  rm -f -- "$job.requeued"
  exit "$code"
fi

newest=0
for checkpoint in "$run"/checkpoint-*; do
  step=${checkpoint##*-}
  if [[ $step =~ ^[0-9]+$ ]] && ((step > newest)); then newest=$step; fi
done

last=-1 tries=0
if [ -f "$job.requeued" ]; then read -r last tries <"$job.requeued"; fi
if ((newest > last)); then tries=0; fi
if ((tries >= again)); then
  echo "stopped; not queued again: $tries times there was no checkpoint newer than that of step $newest" >&2
  exit "$code"
fi
echo "$newest $((tries + 1))" >"$job.requeued"

echo "stopped, saved at step $newest: the job is queued again" >&2
if ! scontrol requeue "$SLURM_JOB_ID"; then
  echo "it could not be queued again; send this script once more, and the run goes on" >&2
fi
exit "$code"

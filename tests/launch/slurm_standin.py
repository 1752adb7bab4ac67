"""Stands in for sbatch, srun, scontrol (as in their manuals) and ftune: `slurm_standin.py PROGRAM WORDS...`.

$STANDIN is a folder with `plan.json`: for each time that the job runs, the exit code of ftune (`codes`) and the step of
its newest checkpoint (`steps`); `signal`: the first time the step gets SIGTERM once all nodes run; `cancel`: the batch
shell gets it too.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["STANDIN"])
PLAN = json.loads((FOLDER / "plan.json").read_text())
NODES = ["gpu01", "gpu02"]
JOB = "4711"
SIGNAL = PLAN.get("signal") and os.environ.get("SLURM_RESTART_COUNT") == "0"


def sbatch(words):
    """Runs the script at once, in the folder where sbatch was called, and again as long as it is queued again."""
    script = words[-1]
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", Path(script).read_text(), re.MULTILINE))
    assert options["signal"] == "TERM@180"
    assert "requeue" in options
    assert options["open-mode"] == "append"
    output = options["output"].replace("%x", options["job-name"]).replace("%j", JOB)
    for attempt in range(9):
        env = {**os.environ, "SLURM_JOB_ID": JOB, "SLURM_RESTART_COUNT": str(attempt)}
        env["SLURM_JOB_NODELIST"] = "gpu[01-02]"
        with Path(output).open("a") as file:
            code = subprocess.run(
                ["/bin/bash", script], env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            ).returncode
        again = FOLDER / "requeued"
        if not again.exists():
            break
        again.unlink()
    (FOLDER / "ended").write_text(f"{code} {attempt}")
    print(f"{JOB};cluster" if "--parsable" in words else f"Submitted batch job {JOB}")


def srun(words):
    """One task a node in a session of its own; with --kill-on-bad-exit the first bad end kills the other tasks."""
    first = next(place for place, word in enumerate(words) if not word.startswith("--"))
    options, command = words[:first], words[first:]
    assert {"--ntasks-per-node=1", "--kill-on-bad-exit=1", f"--nodes={len(NODES)}"} <= set(options), options
    tasks = []
    for node, host in enumerate(NODES):
        own = {"SLURM_NODEID": str(node), "SLURM_PROCID": str(node), "SLURMD_NODENAME": host}
        tasks.append(subprocess.Popen(command, env={**os.environ, **own}, start_new_session=True))
    if SIGNAL:
        while len(list(FOLDER.glob("ready-*"))) < len(NODES):
            time.sleep(0.005)
        for task in tasks:
            os.killpg(task.pid, signal.SIGTERM)
        if PLAN.get("cancel"):
            os.kill(os.getppid(), signal.SIGTERM)
    while any(task.poll() is None for task in tasks):
        if any(task.poll() for task in tasks):
            for task in tasks:
                if task.poll() is None:
                    os.killpg(task.pid, signal.SIGKILL)
        time.sleep(0.005)
    sys.exit(max(task.returncode if task.returncode >= 0 else 128 - task.returncode for task in tasks))


def scontrol(words):
    """`show hostnames` and `requeue`, which ends the batch shell at once."""
    if words[:2] == ["show", "hostnames"]:
        assert words[2] == "gpu[01-02]"
        print("\n".join(NODES))
    elif words == ["requeue", JOB]:
        (FOLDER / "requeued").touch()
        os.kill(os.getppid(), signal.SIGKILL)


def ftune(words):
    """Notes its words; on node 1 it takes a little longer to end."""
    node, attempt = os.environ["SLURM_NODEID"], int(os.environ["SLURM_RESTART_COUNT"])
    received = []
    signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    if SIGNAL:
        (FOLDER / f"ready-{node}").touch()
        while not received:
            time.sleep(0.005)
    step = PLAN["steps"][attempt]
    if step and node == "0":
        Path(PLAN["run"], f"checkpoint-{step}").mkdir(parents=True, exist_ok=True)
    time.sleep(0.1 * int(node))
    (FOLDER / f"call-{attempt}-{node}").write_text(json.dumps({"words": words, "folder": str(Path.cwd())}))
    sys.exit(PLAN["codes"][attempt])


globals()[sys.argv[1]](sys.argv[2:])

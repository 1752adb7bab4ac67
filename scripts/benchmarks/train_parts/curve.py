"""The loss of each step of one run of `ftune sft`."""

from train_parts.ours import run
from train_parts.work import Job, Result


def train(job: Job) -> Result:
    """The command with the job's overrides; a loss that was no number is None."""
    events = run(job.recipe, job.overrides)
    steps = [event for event in events if event["kind"] == "step"]
    told = {event["kind"]: event for event in events}
    return {
        "setting": job.setting.name,
        "way": job.way,
        "steps": [event["step"] for event in steps],
        "losses": [event["loss"] for event in steps],
        "speed": {name: value for name, value in told["speed"].items() if name not in ("kind", "time")},
        "overrides": job.overrides,
    }

"""One measurement: a job as JSON in the first argument, its result as the last line on stdout."""

import json
import sys

from train_parts.work import Job


def main() -> None:
    """Measure and tell."""
    job = Job.of(json.loads(sys.argv[1]))
    if job.way.startswith("TRL"):
        from train_parts.peers import train
    elif job.way.startswith("ftune"):
        from train_parts.ours import train
    else:
        from train_parts.tuned import train
    print("\n" + json.dumps(train(job)), flush=True)


if __name__ == "__main__":
    main()

"""The report: for people, and as JSON."""

import json
from collections.abc import Sequence

from ftune.core.say import Say
from ftune.core.several import several
from ftune.launch.doctor.finding import Finding, without_names

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def as_json(findings: Sequence[Finding]) -> str:
    """One object: `errors` and `warnings` are counts, `findings` all lines."""
    rows = [
        {
            "level": finding.level,
            "area": finding.area,
            "found": without_names(finding.text),
            "remedy": without_names(finding.remedy),
        }
        for finding in findings
    ]
    return json.dumps({"errors": _count(findings, "error"), "warnings": _count(findings, "warning"), "findings": rows})


def tell(findings: Sequence[Finding], say: Say) -> None:
    """A line a finding, what to do below it, and the sum; what is worst stands last, where a person looks first."""
    order = {"ok": 0, "warning": 1, "error": 2}
    width = max((len(finding.area) for finding in findings), default=0)
    for finding in sorted(findings, key=lambda one: order[one.level]):
        say.out.print(f"{finding.level:<8}", style=STYLES[finding.level], end="")
        say.result(f"{finding.area:<{width}}  {without_names(finding.text)}")
        if finding.remedy:
            say.result(f"{'':<8}{'':<{width}}  try: {without_names(finding.remedy)}")
    errors, warnings = _count(findings, "error"), _count(findings, "warning")
    end = "" if errors else ": nothing keeps ftune from running here"
    say.result(f"{several(errors, 'error')}, {several(warnings, 'warning')}{end}")


def _count(findings: Sequence[Finding], level: str) -> int:
    return sum(finding.level == level for finding in findings)

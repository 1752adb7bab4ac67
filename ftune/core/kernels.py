"""Where compiled kernels are kept from run to run."""

import os
from pathlib import Path

from ftune.core.paths import cache_dir

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def keep_kernels() -> None:
    """Let torch's compiler keep what it makes in ftune's cache, unless the environment names another folder.

    By itself torch takes `torchinductor_<user>` among the temporary files, and some of its modules write that into the
    environment when they are imported.
    """
    named = os.environ.get(VARIABLE)
    if named is None or Path(named).name.startswith("torchinductor_"):
        os.environ[VARIABLE] = str(cache_dir() / "kernels")

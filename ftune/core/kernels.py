"""Where compiled kernels are kept from run to run."""

import os

from ftune.core.paths import cache_dir


def keep_kernels() -> None:
    """Let torch's compiler keep what it makes in ftune's cache, unless the environment names another folder."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "kernels"))

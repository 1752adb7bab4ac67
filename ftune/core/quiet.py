"""Upstream libraries without their noise: no progress bars, no advice, no telemetry."""

import logging
import os
import sys
import warnings


def quiet_upstream(*, debug: bool = False) -> None:
    """Silence warnings and bars of the libraries below ftune; call before they are imported.

    Variables that the user has set win. With `debug`, warnings are shown.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if debug else "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "WARNING" if debug else "ERROR")  # names without a reverse look-up
    if debug:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore")
    logging.captureWarnings(capture=True)
    for name in ("py.warnings", "accelerate", "bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet_bars() -> None:
    """Turn off the progress bars of transformers and datasets."""
    import torch
    import transformers

    # or DeepSpeed, which accelerate imports where it is installed, looks for a device and talks about it on stdout
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # read when datasets is imported
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()

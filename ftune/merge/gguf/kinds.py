"""What the numbers of a GGUF file can be stored as, and what llama.cpp has to be asked for."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from ftune.core.errors import ModelError
from ftune.core.suggest import did_you_mean


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file, by the names that the package `gguf` gives to its parts."""

    matrices: str
    """The type of matrices, a member of gguf.GGMLQuantizationType."""

    file_type: str
    """A member of gguf.LlamaFileType."""

    ends: str = ""
    """The type of the token embedding and of the output matrix, where it is not that of the other matrices."""


KINDS = {
    "f32": Kind("F32", "ALL_F32"),
    "f16": Kind("F16", "MOSTLY_F16"),
    "bf16": Kind("BF16", "MOSTLY_BF16"),
    "q8_0": Kind("Q8_0", "MOSTLY_Q8_0"),
    # the two matrices that touch the vocabulary suffer most from few bits, so llama.cpp gives them more as well
    "q5_1": Kind("Q5_1", "MOSTLY_Q5_1", ends="Q8_0"),
    "q5_0": Kind("Q5_0", "MOSTLY_Q5_0", ends="Q8_0"),
    "q4_1": Kind("Q4_1", "MOSTLY_Q4_1", ends="Q8_0"),
    "q4_0": Kind("Q4_0", "MOSTLY_Q4_0", ends="Q8_0"),
}
"""Vectors are f32 in each of them; a matrix whose rows are no multiple of a block (32 numbers) is f16."""

LLAMA_CPP = ("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k")
"""Kinds that only llama.cpp can write, from a file of kind f16 or bf16."""


def check_kind(kind: str, folder: Path, file: Path) -> Kind:
    """The kind of this name.

    ModelError for one that only llama.cpp can write, with the commands that do, and for an unknown name.
    """
    if kind in KINDS:
        return KINDS[kind]
    if kind in LLAMA_CPP:
        raise ModelError(f"gguf: only llama.cpp can write {kind}: {llama_cpp_command(folder, file, kind)}")
    raise ModelError(f"gguf: unknown kind '{kind}'{did_you_mean(kind, [*KINDS, *LLAMA_CPP])}")


def llama_cpp_command(folder: Path, file: Path, kind: str) -> str:
    """What to type in a folder of llama.cpp to make `file` of `folder`."""
    direct = kind in {"f32", "f16", "bf16", "q8_0"}
    converted = file if direct else file.with_name(f"{file.stem}.f16.gguf")
    words = ["python", "convert_hf_to_gguf.py", str(folder), "--outfile", str(converted)]
    convert = shlex.join([*words, "--outtype", kind if direct else "f16"])
    return convert if direct else f"{convert} && {shlex.join(['llama-quantize', str(converted), str(file), kind])}"

"""Whether two runs stand on the same weights, told without reading all of them."""

from pathlib import Path

import xxhash

from ftune.models.reference import is_hub_id

HEAD_BYTES = 2**20


def base_fingerprint(located: str) -> str:
    """xxh3_128 over each weight file's size, first MiB (names, shapes and some values) and last MiB.

    `located` is what `from_pretrained` opens; of a hub id the files in the local cache are taken.
    """
    folder = Path(located)
    if is_hub_id(located):
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(located, local_files_only=True, allow_patterns="*.safetensors"))
    digest = xxhash.xxh3_128()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(HEAD_BYTES))
            opened.seek(max(size - HEAD_BYTES, 0))
            digest.update(opened.read(HEAD_BYTES))
    return digest.hexdigest()

"""What tokenizer lies in a folder, in 16 hexadecimal digits."""

import hashlib
from pathlib import Path

KINDS = (".json", ".txt", ".model")  # of files: all that transformers writes or reads beside weights


def tokenizer_hash(folder: str | Path) -> str:
    """16 hexadecimal digits of a tokenizer's files, and of a network's config where one lies beside them."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.suffix in KINDS:
            digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()[:16]

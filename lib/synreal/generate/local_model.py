"""Vision-language checkpoints of transformers in local folders: loaded strictly, without network."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

from synreal.errors import InputError


def load_local(
    folder: str | Path, kind: Any, device: str | torch.device, gpu_dtype: torch.dtype | str
) -> tuple[Any, Any]:
    """(processor, model in eval mode on `device`) of a folder in the layout of `save_pretrained`.

    kind: the class of transformers that loads the model. gpu_dtype: precision on a GPU, "auto" for the one
    that the checkpoint was saved in; the CPU always computes in float32.
    Raises InputError when files are missing, are no safetensors, or do not fill every weight of the model.
    """
    folder = Path(folder)
    _check_files(folder)
    dtype = torch.float32 if torch.device(device).type == "cpu" else gpu_dtype
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        model, report = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InputError(f"{folder}: transformers cannot load it as {kind.__name__}: {error}") from error
    # transformers itself fills what is missing with random numbers and only warns.
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{folder}: {len(missing)} weights of {type(model).__name__} are missing, the first is "
            f"{missing[0]}; download the checkpoint again, whole"
        )
    return processor, model.eval().to(device)


def checkpoint_name(folder: str | Path) -> str:
    """The folder's name and 12 hexadecimal digits of all that its files say, wherever they lie."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(folder).iterdir() if path.is_file()):
        with path.open("rb") as stream:
            digest.update(path.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return f"{Path(folder).resolve().name}-{digest.hexdigest()[:12]}"


def _check_files(folder: Path) -> None:
    lacking = [name for name in ("config.json", "*.safetensors") if not any(folder.glob(name))]
    if lacking:
        raise InputError(
            f"{folder}: no {' and no '.join(lacking)}; put the whole checkpoint there as it is published on "
            "the hub (configuration, processor, tokenizer, weights as safetensors), or as save_pretrained "
            "writes it"
        )

"""Predictions: one parquet for each model and image set, computed once."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synreal.cache import atomic
from synreal.data.decode import image_batches, image_set_hash
from synreal.data.worlds import World
from synreal.errors import InputError
from synreal.models.card import Card, load_card, refuse_learned
from synreal.models.load import load_classifier
from synreal.paths import cache_dir

METADATA_KEY = b"synreal.predictions"
METADATA_FIELDS = ("class_names", "model", "model_hash", "preprocess_hash", "image_set")


@dataclass(frozen=True, eq=False)
class Predictions:
    """The logits of one model on one image set.

    ids: str [N], unique. labels: int64 [N], indices into class_names. logits: float32 [N, C], finite, one
    column per class. model_hash and preprocess_hash say what produced them, image_set names the images.
    Raises InputError when the parts do not fit each other.
    """

    ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    class_names: tuple[str, ...]
    model: str
    model_hash: str
    preprocess_hash: str
    image_set: str

    def __post_init__(self) -> None:
        name = f"predictions of {self.model!r} on {self.image_set!r}"
        _check_shapes(name, self)
        if len(set(self.ids.tolist())) != len(self.ids):
            raise InputError(f"{name}: ids are not unique; give every image its own id")
        if len(set(self.class_names)) != len(self.class_names):
            raise InputError(f"{name}: class names are not unique; rename the repeated ones")
        if self.labels.min() < 0 or self.labels.max() >= len(self.class_names):
            found = f"{self.labels.min()} to {self.labels.max()}"
            raise InputError(f"{name}: found labels {found}, expected 0 to {len(self.class_names) - 1}")
        broken = ~np.isfinite(self.logits).all(axis=1)
        if broken.any():
            first = self.ids[broken][:3].tolist()
            raise InputError(
                f"{name}: logits of {broken.sum()} images are not finite, first {first}; check the model"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: str | Path) -> Path:
        """Writes the parquet file: columns id, label, logits; the rest in the schema's metadata.

        The file appears under its name only when it is complete.
        """
        with atomic(path) as unfinished:
            pq.write_table(self._table(), unfinished, compression="none", use_dictionary=False)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """Reads what `save` wrote. Raises InputError when the file is missing or is anything else."""
        table = _read(Path(path))
        details = _metadata(Path(path), table.schema)
        _check_schema(Path(path), table, len(details["class_names"]))
        logits = table["logits"].combine_chunks().flatten().to_numpy()
        return cls(
            ids=np.array(table["id"].to_pylist(), dtype=str),
            labels=table["label"].to_numpy(),
            logits=logits.reshape(len(table), -1),
            class_names=tuple(details.pop("class_names")),
            **details,
        )

    def _table(self) -> pa.Table:
        details = {field: getattr(self, field) for field in METADATA_FIELDS}
        flat = pa.array(np.ascontiguousarray(self.logits).reshape(-1), type=pa.float32())
        logits = pa.FixedSizeListArray.from_arrays(flat, len(self.class_names))
        ids = pa.array(self.ids.tolist(), type=pa.string())
        table = pa.table({"id": ids, "label": pa.array(self.labels, type=pa.int64()), "logits": logits})
        return table.replace_schema_metadata({METADATA_KEY: json.dumps(details).encode()})


class SupportsLogits(Protocol):
    """What `predict` needs of a classifier; `logits` returns a tensor or array [N, C]."""

    class_names: Any
    card: Any

    @property
    def model_hash(self) -> str: ...

    @property
    def preprocess_hash(self) -> str: ...

    def logits(self, images: Any, batch_size: int = 256) -> Any: ...


def predict(
    classifier: SupportsLogits, image_set: datasets.Dataset, batch_size: int = 256, *, name: str | None = None
) -> Predictions:
    """The classifier's predictions on an image set with the columns image, label and id.

    Labels are matched by class name, so the two may order their classes differently and the classifier may
    know more. `name` names the image set; by default it is what its `source` column says.
    Raises InputError when a class of the image set is unknown to the classifier, or there is no image.
    """
    if len(image_set) == 0:
        raise InputError("predict: the image set holds no image; check its folder or split")
    labels = _labels_for(classifier, image_set)
    batches = image_batches(image_set, batch_size)
    logits = [np.asarray(classifier.logits(batch, batch_size=batch_size)) for batch in batches]
    return Predictions(
        ids=np.array(image_set["id"][:], dtype=str),
        labels=labels,
        logits=np.concatenate(logits).astype(np.float32, copy=False),
        class_names=tuple(classifier.class_names),
        model=classifier.card.name,
        model_hash=classifier.model_hash,
        preprocess_hash=classifier.preprocess_hash,
        image_set=name or "+".join(sorted(set(image_set["source"][:]))),
    )


def _labels_for(classifier: SupportsLogits, image_set: datasets.Dataset) -> np.ndarray:
    names = image_set.features["label"].names
    position = {name: index for index, name in enumerate(classifier.class_names)}
    unknown = [name for name in names if name not in position]
    if unknown:
        raise InputError(
            f"predict: {classifier.card.name!r} does not know {len(unknown)} classes of the image set, first "
            f"{unknown[:5]}; use a classifier with these classes, or rename them"
        )
    translate = np.array([position[name] for name in names], dtype=np.int64)
    return translate[np.asarray(image_set["label"][:])]


def _check_shapes(name: str, parts: Predictions) -> None:
    shape, expected = parts.logits.shape, (len(parts.ids), len(parts.class_names))
    if len(parts.ids) == 0:
        raise InputError(f"{name}: found no image, expected at least one")
    if shape != expected or parts.labels.shape != expected[:1]:
        raise InputError(
            f"{name}: found logits {shape} and labels {parts.labels.shape}, expected {expected} and "
            f"{expected[:1]} from {expected[0]} ids and {expected[1]} class names"
        )
    if parts.labels.dtype != np.int64 or parts.logits.dtype != np.float32:
        raise InputError(
            f"{name}: found labels of {parts.labels.dtype} and logits of {parts.logits.dtype}, "
            "expected int64 and float32; convert them with astype"
        )


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a predictions parquet, written by Predictions.save")
    try:
        return pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not readable as parquet ({error}); write the predictions again") from error


def _metadata(path: Path, schema: pa.Schema) -> dict[str, Any]:
    raw = (schema.metadata or {}).get(METADATA_KEY)
    details = json.loads(raw) if raw else {}
    if set(details) != set(METADATA_FIELDS):
        raise InputError(
            f"{path}: found the metadata {sorted(details)}, expected {sorted(METADATA_FIELDS)} under "
            f"{METADATA_KEY.decode()!r}; write the file with Predictions.save"
        )
    return details


def _check_schema(path: Path, table: pa.Table, classes: int) -> None:
    expected = {"id": pa.string(), "label": pa.int64(), "logits": pa.list_(pa.float32(), classes)}
    found = {field.name: field.type for field in table.schema}
    same = found.keys() == expected.keys() and all(_alike(found[key], expected[key]) for key in expected)
    if not same:
        raise InputError(f"{path}: found the columns {_words(found)}, expected {_words(expected)}")
    empty = {name: table[name].null_count for name in expected if table[name].null_count}
    if empty:
        raise InputError(f"{path}: found empty cells {empty}, expected none; write the predictions again")


def _alike(found: pa.DataType, expected: pa.DataType) -> bool:
    # The name of a list's inner field differs between writers and means nothing.
    if not pa.types.is_fixed_size_list(expected) or not pa.types.is_fixed_size_list(found):
        return found == expected
    return found.list_size == expected.list_size and found.value_type == expected.value_type


def _words(columns: dict[str, pa.DataType]) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in columns.items())


# Predictions that are computed once: kept on disk by model, preparation and images.


def examine(checkpoint: Card | str, world: World, batch_size: int = 256, device: str = "cpu") -> Predictions:
    """`answers` of a checkpoint that is to be judged by them.

    Raises InputError when the checkpoint's card says that it learned from this world, or was chosen on it.
    """
    card = checkpoint if isinstance(checkpoint, Card) else load_card(checkpoint)
    refuse_learned(card, world.name)
    return predict_cached(card, world, batch_size, device)


def predict_cached(
    checkpoint: Card | str, world: World, batch_size: int = 256, device: str = "cpu"
) -> Predictions:
    """The predictions of a checkpoint (card, name or folder) on a world's images, computed at most once.

    They are kept in the cache under the hashes of the model, its preparation of images, and the images; the
    names of model and world are not part of these, and are those of this call.
    """
    classifier = load_classifier(checkpoint, device=device)
    key = f"{classifier.model_hash}-{classifier.preprocess_hash}-{image_set_hash(world.images)}"
    path = cache_dir() / "predictions" / f"{key}.parquet"
    if not path.exists():
        predict(classifier, world.images, batch_size, name=world.name).save(path)
    return replace(Predictions.load(path), model=classifier.card.name, image_set=world.name)

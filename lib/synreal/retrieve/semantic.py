"""Which candidates are closest to a class by embeddings, and how a search is asked for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import datasets
import numpy as np
import pandas as pd

from synreal.errors import InputError, shorten
from synreal.paths import cache_dir, located
from synreal.retrieve.embed import Encoder, embed_set
from synreal.retrieve.embeddings import Embeddings, refuse_changed, sampled_rows
from synreal.retrieve.index import Index, Kind
from synreal.retrieve.match import ClassQuery, Matcher, read_classes


@dataclass(frozen=True)
class Semantic:
    """How many neighbours of which texts."""

    k: int = 500  # nearest items per text, in each index
    templates: tuple[str, ...] | None = None  # each with one {}; default: the checkpoint's own
    images: bool = True  # search among the images
    captions: bool = True  # search among the captions

    def __post_init__(self) -> None:
        if self.templates is not None and not (self.templates and all(map(_fills_once, self.templates))):
            raise InputError(
                f"templates: found {self.templates!r}; expected at least one, each with one {{}}, where the "
                "class goes, and no other braces"
            )


@dataclass(frozen=True)
class Embedded:
    """What a checkpoint makes of a corpus, ready to be searched."""

    encoder: Encoder
    image_index: Index
    caption_index: Index | None = None

    def __post_init__(self) -> None:
        for index in (self.image_index, self.caption_index):
            if index is not None and index.origin.fingerprint != self.encoder.fingerprint:
                raise InputError(
                    f"the {index.origin.what} index was built by {index.origin.model} "
                    f"({index.origin.fingerprint}), the texts would be embedded by {self.encoder.name} "
                    f"({self.encoder.fingerprint}); embed the corpus with this checkpoint"
                )

    def check(self, corpus: datasets.Dataset) -> None:
        """Raise InputError when these are not of the corpus: by its ids, and the content of sampled rows."""
        ids, sample = set(corpus["id"][:]), sampled_rows(corpus)
        for index in (self.image_index, self.caption_index):
            if index is not None:
                index.embeddings.check_ids(ids)
                refuse_changed(index.embeddings, sample)

    @property
    def images(self) -> Embeddings:
        return self.image_index.embeddings


def embed_corpus(
    corpus: datasets.Dataset,
    encoder: Encoder,
    folder: str | Path | None = None,
    captions: bool = True,
    column: str | None = None,
    kind: Kind = "auto",
) -> Embedded:
    """Embeds images and (unless `captions` is False) captions of a corpus into `folder`, and indexes both.

    folder: by default one in the cache, under the ids of the corpus; what exists there is used. column: image
    embeddings that the corpus carries, see `embed_set`.
    """
    if folder is None:
        ids = hashlib.sha256("\n".join(corpus["id"]).encode()).hexdigest()[:16]
        folder = cache_dir() / "embeddings" / f"{ids}-{encoder.fingerprint}"
    folder = Path(folder)
    images = embed_set(corpus, encoder, folder / "images", "image", column=column)
    index = Index.open(images, folder / "image_index", kind)
    if not captions:
        return Embedded(encoder, index)
    texts = embed_set(corpus, encoder, folder / "captions", "caption")
    return Embedded(encoder, index, Index.open(texts, folder / "caption_index", kind))


def default_folder(encoder: Encoder, place: str) -> Path:
    """Where the embeddings of the corpus at `place` are kept when nothing else is said."""
    key = hashlib.sha256(f"{encoder.fingerprint} {Path(place).resolve()}".encode()).hexdigest()[:16]
    return cache_dir() / "embeddings" / key


def nearest_to_classes(embedded: Embedded, queries: Sequence[ClassQuery], semantic: Semantic) -> pd.DataFrame:
    """One row per item that one of a class's texts found, as often as there are such texts.

    Columns: `label` (number of the class), `id`, `matched_by` (image or caption) and `template`. Each of a
    class's terms is put into each template.
    """
    rows, templates = [], templates_of(embedded, semantic)
    for where, index in _searched(embedded, semantic).items():
        for label, query in enumerate(queries):
            found = index.search(_texts(embedded, query, semantic), semantic.k)[0]
            repeated = np.repeat(np.tile(templates, len(query.terms)), found.shape[1])
            part = pd.DataFrame({"id": found.ravel(), "label": label, "matched_by": where})
            rows.append(part.assign(template=repeated)[found.ravel() != ""])
    return pd.concat(rows, ignore_index=True).drop_duplicates(ignore_index=True)


def templates_of(embedded: Embedded, semantic: Semantic) -> tuple[str, ...]:
    """Those of the search, or else the checkpoint's own."""
    return tuple(embedded.encoder.templates) if semantic.templates is None else semantic.templates


def recall_of(embedded: Embedded, queries: Sequence[ClassQuery], semantic: Semantic) -> dict[str, float]:
    """Per index searched: the share of the truly nearest items that it finds for the classes' texts."""
    texts = np.concatenate([_texts(embedded, query, semantic) for query in queries])
    searched = _searched(embedded, semantic)
    return {where: index.recall(texts, semantic.k) for where, index in searched.items()}


def _fills_once(template: str) -> bool:
    return template.count("{}") == 1 and not set("{}") & set(template.replace("{}", ""))


def _searched(embedded: Embedded, semantic: Semantic) -> dict[str, Index]:
    found = {}
    if semantic.images:
        found["image"] = embedded.image_index
    if semantic.captions:
        if embedded.caption_index is None:
            raise InputError(
                "semantic.captions: the captions are not embedded; embed them, or set it to False"
            )
        found["caption"] = embedded.caption_index
    if not found:
        raise InputError("semantic: images and captions are both False; search at least one of them")
    return found


def _texts(embedded: Embedded, query: ClassQuery, semantic: Semantic) -> np.ndarray:
    templates = templates_of(embedded, semantic)
    return embedded.encoder.texts([template.format(t) for t in query.terms for template in templates])


# How images of a class are looked up: which words in captions, and which neighbours by CLIP.


@dataclass(frozen=True)
class Lookup:
    """A matcher of captions by name, or "none"; and the `nearest` neighbours of each text of a class.

    classes: YAML file, see `read_classes`; empty for the names of the classes alone.
    Raises InputError for another matcher, fewer than 0 neighbours, and when neither way is left.
    """

    classes: str = ""
    matcher: str = "tokens"
    nearest: int = 0

    def __post_init__(self) -> None:
        known = (*get_args(Matcher), "none")
        if self.matcher not in known:
            raise InputError(f"matcher: found {self.matcher!r}, expected one of {', '.join(known)}")
        least = 1 if self.matcher == "none" else 0
        if self.nearest < least:
            raise InputError(
                f"nearest: found {self.nearest}, expected {least} or more with matcher {self.matcher}"
            )

    def ways(self, captioned: bool) -> tuple[Matcher | None, Semantic | None]:
        """What `retrieve` takes: the matcher, and a search of the images and, if there are any, captions."""
        chosen: dict[str, Matcher] = {name: name for name in get_args(Matcher)}
        semantic = Semantic(self.nearest, captions=captioned) if self.nearest else None
        return chosen.get(self.matcher), semantic

    def queries(self, names: Sequence[str]) -> list[ClassQuery]:
        """A query for each of these classes; InputError where the file lacks one.

        Without a file, a class whose name is part of another's excludes that one ("shirt" is no "t-shirt")
        where captions are matched; without a matcher, a corpus needs no captions.
        """
        if not self.classes:
            longer = {name: tuple(n for n in names if name in n and n != name) for name in names}
            matched = self.matcher != "none"
            return [
                ClassQuery(name=name, synonyms=(), exclude=longer[name] if matched else ()) for name in names
            ]
        by_name = {query.name: query for query in read_classes(located(self.classes))}
        if lacking := [name for name in names if name not in by_name]:
            raise InputError(f"classes: {self.classes} lacks {shorten(lacking)}, which are classes of a task")
        return [by_name[name] for name in names]

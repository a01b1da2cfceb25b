"""Blocked objects by yes-or-no questions to a vision-language model (P1 sec. 3); a model on this machine."""

import hashlib
import re
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import datasets
import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import AutoModelForImageTextToText

from synreal.data.decode import decoded, stored_bytes, undecoded
from synreal.errors import InputError
from synreal.generate.prompts import checkpoint_name, load_local
from synreal.synbench.measures import YES_NO

# A judge on this machine: any vision-language model of transformers that has a chat template.


MAX_NEW_TOKENS = 8  # the question wants one word


class LocalJudge:
    """A checkpoint in a local folder, such as LLaVA or Qwen2-VL-Instruct saved from the hub.

    On a GPU it computes in the precision that the checkpoint was saved in. Raises InputError as `load_local`,
    and for a model without a chat template, which does not follow instructions.
    """

    workers = 1

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu", batch_size: int = 16):
        self._processor, self._model = load_local(folder, AutoModelForImageTextToText, device, "auto")
        if getattr(self._processor, "chat_template", None) is None:
            raise InputError(
                f"{folder}: the processor has no chat template; use a model tuned for conversation, such as "
                "LLaVA or Qwen2-VL-Instruct"
            )
        self._processor.tokenizer.padding_side = "left"  # answers begin where the prompts end
        self.name = checkpoint_name(folder)
        self.batch_size = batch_size

    @torch.inference_mode()
    def ask(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """The likeliest answers, in one batch."""
        chats = [_chat(image, question) for image, question in zip(images, questions, strict=True)]
        inputs = self._processor.apply_chat_template(
            chats,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self._model.device, self._model.dtype)
        tokens = self._model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        return self._processor.batch_decode(tokens[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def _chat(image: Image.Image, question: str) -> list[dict]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


# Yes/no questions about images, asked of a vision-language judge, each at most once.
#
# P1 sec. 3.2 finds person blocking so: of the images that hold a person, a judge (GPT-4o) is asked whether
# the person covers the object.


PERSON_BLOCKING = (
    "Is part of {class_name} occluded by the human body in the image? Please only answer yes or no."
)
ANSWER = re.compile(r"\W*(yes|no)(?:\W*|\s*[.,;:!\n–—].*)", re.IGNORECASE | re.DOTALL)

Key = tuple[str, str]  # sha256 of the stored image, question


class Judge(Protocol):
    """Whoever answers questions about images."""

    name: str  # keys the answers that are kept, so it tells one model from another
    batch_size: int  # questions per call of `ask`
    workers: int  # calls side by side

    def ask(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """One raw answer per (RGB image, question). Raises InputError when no answer can be had."""
        ...


class Refusals(UserWarning):
    """Answers that are neither yes nor no: `answers` holds them by image id, of `asked` questions."""

    def __init__(self, judge: str, answers: dict[str, str], asked: int):
        self.answers, self.asked = answers, asked
        key, first = next(iter(answers.items()))
        super().__init__(
            f"{judge}: {len(answers)} of {asked} answers are neither yes nor no and count as neither; the "
            f"first, about image {key}: {first[:80]!r}"
        )


class AnswerCache:
    """Answers on disk by judge, question and image. Nothing is changed or removed: the first answer stays.

    A blank reply is none: it is not kept, and one that an earlier version kept gives way to an answer.
    Every answer is one transaction of SQLite, so a process that is killed leaves the file whole. Several
    threads and processes may share it. Raises InputError when `path` is some other file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS answers (judge TEXT, image TEXT, question TEXT, answer TEXT, "
                "PRIMARY KEY (judge, image, question)) WITHOUT ROWID"
            )

    def known(self, judge: str) -> dict[Key, str]:
        """All answers of a judge, none of them blank."""
        with self._open() as database:
            rows = database.execute("SELECT image, question, answer FROM answers WHERE judge = ?", [judge])
            return {(image, question): answer for image, question, answer in rows if answer.strip()}

    def add(self, judge: str, answers: dict[Key, str]) -> None:
        """Keeps the answers whose key is new and that are not blank."""
        rows = [(judge, *key, answer) for key, answer in answers.items() if answer.strip()]
        with self._open() as database:
            database.executemany(
                "INSERT INTO answers VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET answer = excluded.answer "
                "WHERE trim(answers.answer, ' ' || char(9, 10, 13)) = ''",
                rows,
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # The default rollback journal, not WAL: WAL does not work on the network disks of clusters.
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                yield database
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"{self.path}: cannot be used as a store of answers ({error}); name another file"
            ) from error


class Persons(Protocol):
    """Says of an image set which images hold a person."""

    @property
    def fingerprint(self) -> str:
        """What shapes the answer beside the images."""

    def __call__(self, images: datasets.Dataset) -> pd.Series:
        """bool by image id, for every image."""


@dataclass(frozen=True)
class PersonBlocking:
    """1 where a person covers part of the object, as a judge sees it (P1 sec. 3.2); the mean is the share.

    Only the images on which `persons` finds one are asked about.
    """

    judge: Judge
    persons: Persons
    cache: AnswerCache
    name: str = "person blocking"
    unit: str = YES_NO

    @property
    def fingerprint(self) -> str:
        return f"{self.judge.name} {PERSON_BLOCKING} {self.persons.fingerprint}"

    def values(self, images: datasets.Dataset) -> pd.Series:
        """Float64 by image id: 1 blocked, 0 not blocked or no person, NaN where the judge refused.

        Refusals are warned of (`Refusals`). Blank replies are refusals too; attrs["unanswered"] counts them,
        and the next run asks again. Only images with a person can be refused, so a mean that leaves them out
        tends to be too low; filling them with 0 and with 1 bounds it.
        Raises InputError when `persons` leaves images out, or the judge stays silent.
        """
        ids = pd.Index(images["id"][:], name="id")
        rows = np.flatnonzero(_on_all(self.persons(images), ids))
        answers = self._answers(images.select(rows))
        values = pd.Series(0.0, index=ids, name=self.name)
        values.iloc[rows] = [parse_answer(answer) for answer in answers]
        values.attrs["unanswered"] = sum(not answer.strip() for answer in answers)
        refused = {
            ids[row]: said for row, said in zip(rows, answers, strict=True) if np.isnan(values.iloc[row])
        }
        if refused:
            warnings.warn(Refusals(self.judge.name, refused, len(rows)), stacklevel=2)
        return values

    def _answers(self, images: datasets.Dataset) -> list[str]:
        names = images.features["label"].names
        questions = [PERSON_BLOCKING.format(class_name=names[label]) for label in images["label"]]
        return ask_all(self.judge, images, questions, self.cache)


def parse_answer(answer: str) -> float:
    """1 for yes, 0 for no, NaN for anything else, which counts as a refusal.

    An answer is the one word in any case, alone or before punctuation: "Yes.", "no, it is not". "No idea" is
    none.
    """
    match = ANSWER.fullmatch(answer)
    return float(match[1].lower() == "yes") if match else np.nan


def ask_all(
    judge: Judge, images: datasets.Dataset, questions: Sequence[str], cache: AnswerCache
) -> list[str]:
    """The judge's raw answer to one question per image of the set; what `cache` knows is not asked again.

    Answers are kept as they come, so that whatever ends a run, the next one asks only the rest. A blank reply
    is given as "" and not kept.
    Raises InputError for an image that cannot be decoded, and when the judge gives no answer.
    """
    if len(questions) != len(images):
        raise InputError(f"questions: found {len(questions)} for {len(images)} images, expected one each")
    raw = undecoded(images)
    digests = (hashlib.sha256(stored_bytes(row)).hexdigest() for row in raw)
    keys = list(zip(digests, questions, strict=True))
    known = cache.known(judge.name)
    missing = {key: row for row, key in enumerate(keys) if key not in known}
    if missing:
        _ask(judge, raw, missing, cache)
        known = cache.known(judge.name)
    return [known.get(key, "") for key in keys]


def _ask(judge: Judge, raw: datasets.Dataset, missing: dict[Key, int], cache: AnswerCache) -> None:
    def ask(keys: list[Key]) -> None:
        images = [decoded(raw[missing[key]]) for key in keys]
        answers = judge.ask(images, [question for _, question in keys])
        cache.add(judge.name, dict(zip(keys, answers, strict=True)))

    keys, step = list(missing), judge.batch_size
    pool = ThreadPoolExecutor(judge.workers)
    jobs = [pool.submit(ask, keys[start : start + step]) for start in range(0, len(keys), step)]
    try:
        for job in tqdm(as_completed(jobs), desc=judge.name, total=len(jobs), delay=5):
            job.result()
    except InputError as error:
        raise InputError(
            f"{error}. Answers given so far are kept in {cache.path}; run again for the rest"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # waits for the calls under way; they keep their answers


def _on_all(persons: pd.Series, ids: pd.Index) -> np.ndarray:
    found = persons.reindex(ids)
    if found.isna().any():
        raise InputError(
            f"persons: says nothing of {found.isna().sum()} of {len(ids)} images, the first is "
            f"{found.index[found.isna()][0]}; expected true or false for every image id"
        )
    return found.to_numpy(dtype=bool)

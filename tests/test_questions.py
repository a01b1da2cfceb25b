"""A judge is asked what is not yet known, nothing it said is lost, and a refusal is never a no."""

import multiprocessing
import os
import signal
import threading
import warnings

import datasets
import numpy as np
import pandas as pd
import pytest

from synreal.data.decode import from_arrays
from synreal.errors import InputError
from synreal.synbench.vlm import AnswerCache, PersonBlocking, Refusals, ask_all, parse_answer

NAMES = ("tench", "hen")
SAYS = {0: "Yes.", 1: "no", 2: "I'm sorry, I can't help with that.", 3: "No, nobody is there."}
QUESTION = "Is part of {} occluded by the human body in the image? Please only answer yes or no."


class Fake:
    """Knows an image by its first pixel, says what `SAYS` has for it, and falls silent after `fails_at`."""

    def __init__(self, name="fake", batch_size=2, workers=1, fails_at=None):
        self.name, self.batch_size, self.workers, self.fails_at = name, batch_size, workers, fails_at
        self.asked, self.lock = [], threading.Lock()

    def ask(self, images, questions):
        kinds = [image.getpixel((0, 0))[0] for image in images]
        with self.lock:
            if self.fails_at is not None and len(self.asked) >= self.fails_at:
                raise InputError("fake: no answer in 3 tries")
            self.asked += zip(kinds, questions, strict=True)
        return [SAYS[kind % 4] for kind in kinds]


def image_set(kinds):
    images = np.array(kinds, np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    return from_arrays(images, [i % 2 for i in range(len(kinds))], NAMES)


def everyone(images):
    return pd.Series(True, index=images["id"][:])


@pytest.fixture
def cache(tmp_path):
    return AnswerCache(tmp_path / "deep" / "answers.sqlite")


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("yes", 1), ("Yes.", 1), (" YES\n", 1), ("**Yes**", 1), ('"yes"', 1), ("Yes, the arm covers it.", 1),
        ("no", 0), ("No!", 0), ("No, it is not.\nNobody is there.", 0), ("no\nThe fish is held.", 0),
        ("", None), ("No idea", None), ("not at all", None), ("Yes/no", None), ("yes or no", None),
        ("maybe", None), ("Noah's ark", None), ("I cannot say yes or no.", None),
        ("yesterday", None), ("Ja", None),
    ],
)  # fmt: skip
def test_answers_are_yes_no_or_refusals(answer, value):
    found = parse_answer(answer)
    assert np.isnan(found) if value is None else found == value


def test_only_images_with_a_person_are_asked_about_and_refusals_are_not_no(cache):
    images, judge = image_set([0, 1, 2, 3, 4, 5]), Fake()
    persons = pd.Series([True, True, True, True, False, False], index=images["id"][:])
    measure = PersonBlocking(judge, lambda _: persons[::-1], cache)
    with pytest.warns(Refusals, match="fake: 1 of 4 answers are neither yes nor no.* image 00000002") as told:
        values = measure.values(images)
    assert told[0].message.answers == {"00000002": SAYS[2]} and told[0].message.asked == 4
    assert values.dtype == np.float64 and values.index.tolist() == images["id"][:]
    np.testing.assert_array_equal(values, [1, 0, np.nan, 0, 0, 0])
    expected = [(kind, QUESTION.format(NAMES[kind % 2])) for kind in range(4)]
    assert judge.asked == expected
    assert (measure.name, measure.unit) == ("person blocking", "0 or 1")


def test_a_set_without_persons_asks_nothing(cache):
    images, judge = image_set([0, 1]), Fake()
    with warnings.catch_warnings(action="error"):
        values = PersonBlocking(judge, lambda s: pd.Series(False, index=s["id"][:]), cache).values(images)
    assert values.tolist() == [0, 0] and not judge.asked


def test_nothing_is_asked_twice(cache):
    images, first, again = image_set([0, 1, 0, 3]), Fake(), Fake()
    questions = ["q"] * 4
    answers = ask_all(first, images, questions, cache)
    assert answers == [SAYS[0], SAYS[1], SAYS[0], SAYS[3]]
    assert len(first.asked) == 3  # the third image has the bytes of the first
    assert ask_all(again, images, questions, AnswerCache(cache.path)) == answers
    assert again.asked == []
    assert ask_all(again, images, ["other", *questions[1:]], cache) == answers
    assert again.asked == [(0, "other")]
    other = Fake(name="another model")
    assert ask_all(other, images, questions, cache) == answers and len(other.asked) == 3


def test_an_image_on_disk_is_the_same_image(cache, tmp_path):
    images, judge = image_set([0]), Fake()
    ask_all(judge, images, ["q"], cache)
    (tmp_path / "a.png").write_bytes(
        images.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"]
    )
    on_disk = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")], "id": ["a"]})
    assert ask_all(judge, on_disk.cast_column("image", datasets.Image()), ["q"], cache) == [SAYS[0]]
    assert len(judge.asked) == 1


def test_answers_stand_beside_their_images_whatever_batches_and_threads(cache):
    kinds = list(range(23))
    for batch_size, workers in ((1, 4), (5, 2), (50, 1)):
        judge = Fake(f"{batch_size} {workers}", batch_size, workers)
        assert ask_all(judge, image_set(kinds), ["q"] * 23, cache) == [SAYS[kind % 4] for kind in kinds]
        assert sorted(judge.asked) == [(kind, "q") for kind in kinds]


def test_a_judge_that_falls_silent_loses_nothing(cache):
    images, questions = image_set(range(10)), ["q"] * 10
    with pytest.raises(
        InputError, match="no answer in 3 tries. Answers given so far are kept in .*answers.sqlite"
    ):
        ask_all(Fake(fails_at=6), images, questions, cache)
    rest = Fake()
    assert len(ask_all(rest, images, questions, cache)) == 10
    assert rest.asked == [(kind, "q") for kind in range(6, 10)]


def test_a_killed_process_loses_nothing(cache):
    class Killed(Fake):
        def ask(self, images, questions):
            if len(self.asked) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().ask(images, questions)

    images, questions = image_set(range(8)), ["q"] * 8
    process = multiprocessing.get_context("fork").Process(
        target=ask_all, args=(Killed(), images, questions, cache)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    rest = Fake()
    ask_all(rest, images, questions, AnswerCache(cache.path))
    assert rest.asked == [(kind, "q") for kind in range(4, 8)]


def test_blank_replies_count_as_refusals_and_are_asked_for_again(cache, monkeypatch):
    monkeypatch.setitem(SAYS, 1, " \n")
    images, judge = image_set([0, 1, 2]), Fake()
    measure = PersonBlocking(judge, everyone, cache)
    with pytest.warns(Refusals, match="2 of 3 answers are neither yes nor no"):
        values = measure.values(images)
    np.testing.assert_array_equal(values, [1, np.nan, np.nan])
    assert values.attrs["unanswered"] == 1
    monkeypatch.setitem(SAYS, 1, "no")
    with pytest.warns(Refusals, match="1 of 3 answers"):
        values = measure.values(images)
    np.testing.assert_array_equal(values, [1, 0, np.nan])
    assert [kind for kind, _ in judge.asked] == [0, 1, 2, 1] and values.attrs["unanswered"] == 0


def test_a_blank_reply_of_an_earlier_version_gives_way(cache):
    with cache._open() as database:
        database.execute("INSERT INTO answers VALUES ('judge', 'image', 'q', '\n')")
    assert cache.known("judge") == {}
    cache.add("judge", {("image", "q"): "yes"})
    assert cache.known("judge") == {("image", "q"): "yes"}


def test_the_first_answer_stays(cache):
    cache.add("judge", {("image", "q"): "yes"})
    cache.add("judge", {("image", "q"): "no", ("other", "q"): "no"})
    assert cache.known("judge") == {("image", "q"): "yes", ("other", "q"): "no"}
    assert cache.known("another") == {}


def test_bad_input_is_refused(cache, tmp_path):
    images = image_set([0, 1])
    with pytest.raises(InputError, match="persons: says nothing of 1 of 2 images, the first is 00000001"):
        PersonBlocking(Fake(), lambda s: everyone(s)[:1], cache).values(images)
    with pytest.raises(InputError, match="questions: found 1 for 2 images, expected one each"):
        ask_all(Fake(), images, ["q"], cache)
    (tmp_path / "notes.txt").write_text("no database, but long enough to have a header of its own" * 9)
    with pytest.raises(InputError, match="notes.txt: cannot be used as a store of answers"):
        AnswerCache(tmp_path / "notes.txt")
    broken = images.to_dict() | {"image": [{"bytes": b"no image", "path": None}] * 2}
    with pytest.raises(InputError, match="image 0000000.: cannot be decoded"):
        ask_all(Fake(), datasets.Dataset.from_dict(broken, features=images.features), ["q", "q"], cache)

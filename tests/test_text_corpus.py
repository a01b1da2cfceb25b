"""The text that ships, text sets from elsewhere, and the guard."""

import hashlib
from importlib.resources import files

import datasets
import numpy as np
import pytest

from synreal.errors import InputError
from synreal.text.corpora import (
    LONGEST,
    LOOKED_AT,
    PRESETS,
    SHA256,
    TURNS,
    austen,
    chapters,
    load_texts,
    pieces,
    place_of,
)
from synreal.text.guard import check_disjoint, runs, units_of

PARTS = "ABCD"


@pytest.fixture(scope="module")
def parts():
    return {part: austen(part) for part in PARTS}


def test_the_packed_novels_are_the_ones_of_the_source_note():
    packed = files("synreal.text") / "austen.txt.bz2"
    assert hashlib.sha256(packed.read_bytes()).hexdigest() == SHA256
    note = (files("synreal.text") / "AUSTEN_SOURCE.txt").read_text()
    assert "public domain" in note and "Project Gutenberg" in note


def test_six_novels_with_all_their_chapters():
    by_novel = {}
    for name in chapters():
        novel, number = name.split("/")
        by_novel.setdefault(novel, []).append(int(number))
    assert {novel: len(numbers) for novel, numbers in by_novel.items()} == {
        "sense-and-sensibility": 50, "pride-and-prejudice": 61, "mansfield-park": 48,
        "emma": 55, "northanger-abbey": 31, "persuasion": 24,
    }  # fmt: skip
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in by_novel.values())
    first = chapters()["pride-and-prejudice/01"][0]
    assert first.startswith("It is a truth universally acknowledged")


def test_no_chapter_lies_in_two_parts_and_none_is_lost_but_texts_looked_at(parts):
    clusters = [set(part["cluster"]) for part in parts.values()]
    assert sum(map(len, clusters)) == len(set.union(*clusters)) == len(chapters()) == 269
    ids = [name for part in parts.values() for name in part["id"]]
    assert len(ids) == len(set(ids)) == sum(map(len, chapters().values())) - LOOKED_AT


def test_no_text_looked_at_is_a_test_text(parts):
    """The losses of D's first 450 texts in the order of seed 0 were seen before the steps were set."""
    whole = [
        f"{name}/{number:03d}"
        for turn, (name, texts) in enumerate(chapters().items())
        if TURNS[turn % 10] == "D"
        for number in range(len(texts))
    ]
    seen = {whole[row] for row in np.random.default_rng(0).permutation(len(whole))[:450]}
    assert len(parts["D"]) == 1117 and not seen & set(parts["D"]["id"])


def test_the_parts_share_no_run_of_words(parts):
    texts = {part: list(found["text"]) for part, found in parts.items()}
    judged = {part: texts[part] for part in "CD"}
    check_disjoint({"A": texts["A"], "B": texts["B"]}, judged)
    check_disjoint({"C": texts["C"]}, {"D": texts["D"]})


def test_long_paragraphs_are_cut_behind_sentences():
    text = "One two three. Four five six! Seven?"
    assert list(pieces(text, 20)) == ["One two three.", "Four five six!", "Seven?"]
    assert list(pieces(text, 40)) == [text]
    assert " ".join(pieces(text, 16)) == text
    for texts in chapters().values():
        assert all(len(piece) <= LONGEST or len(list(pieces(piece))) == 1 for piece in texts)


def test_a_part_that_does_not_exist():
    with pytest.raises(InputError, match="found part 'E', expected one of A, B, C, D"):
        load_texts("austen/E")


def test_text_files_are_read_by_paragraph(tmp_path):
    (tmp_path / "one.txt").write_text("First\nparagraph.\n\n\nSecond.\n")
    alone = load_texts(str(tmp_path / "one.txt"))
    assert alone["text"][:] == ["First paragraph.", "Second."] and alone["cluster"][:] == alone["id"][:]
    (tmp_path / "two.txt").write_text("Third.")
    both = load_texts(str(tmp_path))
    assert both["cluster"][:] == [str(tmp_path / name) for name in ("one", "one", "two")]


def test_jsonl_parquet_and_saved_sets_are_read_alike(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    made = datasets.Dataset.from_dict({"text": ["One.", " ", "Two."], "title": ["a", "b", "c"]})
    made.to_json(tmp_path / "set.jsonl")
    made.to_parquet(tmp_path / "set.parquet")
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "saved")
    for source in ("set.jsonl", "set.parquet", "saved#train"):
        found = load_texts(str(tmp_path / source))
        assert found["text"][:] == ["One.", "Two."], source
        assert set(found.column_names) == {"text", "title", "id", "cluster", "source"}
    assert load_texts(str(tmp_path / "set.jsonl"), column="title")["text"][:] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "holds no text"), (b" \n\n ", "holds no text"), (b"caf\xe9 au lait", "not UTF-8 .byte 0xe9 at 3")],
)
def test_bad_text_is_refused_with_its_file(tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(InputError, match=f"bad.txt: {message}"):
        load_texts(str(tmp_path / "bad.txt"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.jsonl", b"", "found an empty file, expected rows of a json file"),
        ("bad.parquet", b"", "found an empty file, expected rows of a parquet file"),
        ("bad.parquet", b"PAR2", "cannot be read"),
        ("bad.jsonl", b'{"text": "One."}\n{"text": "Two.\n{"text": "Three."}\n', "cannot be read"),
        ("bad.jsonl", b'{"text": "caf\xe9"}\n', "column text: not UTF-8"),
        ("bad.jsonl", b'{"words": "One."}\n', "no column text; found .'words'."),
        ("bad.jsonl", b'{"text": 3}\n{"text": 4}\n', "column text: found 3 in row 0 .2 such rows.*strings"),
        ("bad.jsonl", b'{"text": "One."}\n{"text": 4}\n', "column text: found 4 in row 1"),
        ("bad.jsonl", b'{"text": ["One."]}\n', "column text: found .'One.'. in row 0"),
        ("bad.jsonl", b'{"text": null}\n', "found 1 rows and no text in them"),
        (
            "bad.jsonl",
            b'{"text": "One.", "cluster": "a"}\n{"text": "Two.", "cluster": null}\n',
            "found 1 of 2 rows without a value in column cluster, expected one in each",
        ),
        ("bad.jsonl", b'{"text": "One.", "id": null}\n{"text": "Two.", "id": 4}\n', "value in column id"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_with_what_was_found(tmp_path, monkeypatch, name, content, message):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        load_texts(str(tmp_path / name))


def test_sources_that_cannot_be_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "picture.png").write_bytes(b"")
    with pytest.raises(InputError, match="no such file or folder; expected austen/PART"):
        load_texts(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="files of the kinds none"):
        load_texts(str(tmp_path / "folder"))
    datasets.Dataset.from_dict({"words": ["One."]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(InputError, match="no column text; found .'words'.; name it as"):
        load_texts(str(tmp_path / "saved"))
    with pytest.raises(InputError, match="asked for split test, but it holds no splits"):
        load_texts(str(tmp_path / "saved#test"))


def test_presets_read_a_local_copy_and_say_when_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    datasets.Dataset.from_dict({"output": ["A story."]}).to_parquet(tmp_path / "part-0.parquet")
    assert load_texts(f"alpaca-gpt4:{tmp_path}")["text"][:] == ["A story."]
    assert {preset.kind for preset in PRESETS.values()} == {"real", "synthetic"}
    with pytest.raises(InputError, match="no such file or folder"):
        load_texts("tinystories:nowhere")


def test_column_and_config_of_a_set_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    wiki = tmp_path / "wiki"
    for config in ("wikitext-103-raw-v1", "wikitext-2-v1"):
        (wiki / config).mkdir(parents=True)
        made = datasets.Dataset.from_dict({"text": [config], "title": ["of it"]})
        made.to_parquet(wiki / config / "train-0.parquet")
    assert load_texts(f"wikitext:{wiki}#train")["text"][:] == ["wikitext-103-raw-v1"]
    assert load_texts(f"wikitext:{wiki}?config=wikitext-2-v1")["text"][:] == ["wikitext-2-v1"]
    assert load_texts(f"wikitext:{wiki}/wikitext-2-v1")["text"][:] == ["wikitext-2-v1"]
    assert load_texts(f"{wiki}?column=title&config=wikitext-2-v1#train")["text"][:] == ["of it"]
    assert load_texts(f"wikitext:{wiki}", column="title")["text"][:] == ["of it"]
    with pytest.raises(InputError, match="found the folders .'wikitext-103-raw-v1', .* expected en; name"):
        load_texts(f"{wiki}?config=en")
    (wiki / "wikitext-103-raw-v1").rename(tmp_path / "away")
    with pytest.raises(InputError, match="found the folders .'wikitext-2-v1'., expected wikitext-103-raw-v1"):
        load_texts(f"wikitext:{wiki}")
    with pytest.raises(InputError, match=r"found \?colum=title, expected column=NAME or config=NAME"):
        load_texts(f"{wiki}?colum=title")
    with pytest.raises(InputError, match="a part of austen has no splits, configs or columns"):
        load_texts("austen/B?column=id")


def test_a_config_of_the_hub_can_be_named(monkeypatch):
    asked = []

    def load(name, config, **kwargs):
        asked.append((name, config, kwargs["split"]))
        return datasets.Dataset.from_dict({"body": ["One."]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    load_texts("hub:owner/name?config=en&column=body#test")
    load_texts("hub:wikitext?column=body&config=wikitext-2-v1")
    assert asked == [("owner/name", "en", "test"), ("Salesforce/wikitext", "wikitext-2-v1", "train")]


def test_a_preset_without_network(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError, match="the hub could not be reached or has no roneneldan/TinyStories"):
        load_texts("hub:tinystories#train")


def test_places_of_the_zoo_are_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "thing").mkdir()
    monkeypatch.setenv("SYNREAL_ZOO", str(tmp_path))
    assert place_of("zoo/thing") == place_of("$SYNREAL_ZOO/thing") == tmp_path / "thing"


SENTENCE = "it was a bright cold day in april and the clocks were striking thirteen times"


def test_the_guard_finds_a_run_of_words_whatever_its_dress():
    dressed = {"the real text": ["Nothing.", f"Before: {SENTENCE.upper()}!"]}
    with pytest.raises(InputError, match="the real text and the test text: 1 texts .* the first is text 1"):
        check_disjoint(dressed, {"the test text": [SENTENCE]})
    check_disjoint({"a": [SENTENCE.replace("april", "may")[:60]]}, {"b": [SENTENCE]})


def test_runs_are_of_thirteen_words():
    assert list(runs(units_of("Yes, said Emma."))) == []
    assert len(list(runs(units_of(SENTENCE)))) == len(SENTENCE.split()) - 12


@pytest.mark.parametrize("way", [1, -1])
def test_a_short_text_may_not_stand_in_a_longer_one(way):
    short, long = (["the clocks were striking thirteen times"], [f"Then {SENTENCE}, he said."])
    check_disjoint({"a": short}, {"b": long})  # six words prove nothing
    one, other = [["And, the clocks were striking thirteen times!"], [SENTENCE]][::way]
    with pytest.raises(InputError, match="a and b: 1 texts .*'and the clocks were striking thirteen times'"):
        check_disjoint({"a": one}, {"b": other})


def test_very_short_texts_count_when_many_are_the_same():
    headlines = [f"Headline number {number}" for number in range(40)]
    others = [f"Other headline {number}" for number in range(40)]
    check_disjoint({"a": ["Yes."] * 40 + headlines}, {"b": ["Yes."] * 40 + others})
    with pytest.raises(InputError, match="a and b: 40 texts of a .* first is text 0: 'headline number 0'"):
        check_disjoint({"a": headlines}, {"b": [*others, *headlines]})


@pytest.mark.parametrize(
    ("sentence", "other"),
    [
        ("我们在这个寒冷的四月早晨听见所有的钟一起敲了十三下然后街上又安静下来", "我们在春天里"),
        ("四月の晴れた寒い日で時計がどれも十三時を打っていたのを私は今でもよく覚えている", "四月の晴れた日"),
        ("วันนั้นเป็นวันที่อากาศหนาวและท้องฟ้าแจ่มใสในเดือนเมษายนและนาฬิกาทุกเรือนกำลังตีบอกเวลาสิบสามนาฬิกา", "วันนั้นเป็นวันที่"),
    ],
)  # fmt: skip
def test_scripts_without_spaces_are_compared_by_character(sentence, other):
    judged = {"b": [f"{other}{sentence[3:]}{other}"]}
    with pytest.raises(InputError, match="a and b: 1 texts of a share"):
        check_disjoint({"a": [sentence]}, judged)
    check_disjoint({"a": [other * 2]}, judged)

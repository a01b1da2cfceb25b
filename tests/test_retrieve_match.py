"""Matchers: what they find, what no matcher may do, and what is refused."""

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from synreal.errors import InputError
from synreal.retrieve.match import Captions, ClassQuery, fold, matcher_counts, read_classes

SHARK = "great white shark"
CAPTIONS = [
    "a great photo of a shark on white sand",
    "A Great White Shark!",
    "greatwhiteshark",
    "nothing of the kind",
    None,
    "",
]
WORDS = st.text("abcde fé", min_size=1, max_size=12)
TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=20)), min_size=1, max_size=8)


def found(captions, term, matcher):
    return Captions(captions).matches([term], matcher).tolist()


def test_the_papers_substring_is_an_and_of_tokens_and_finds_what_a_phrase_does_not():
    assert found(CAPTIONS, SHARK, "tokens") == [True, True, False, False, False, False]
    assert found(CAPTIONS, SHARK, "phrase") == [False, True, False, False, False, False]
    assert found(CAPTIONS, SHARK, "substring") == [False, True, False, False, False, False]
    assert found(CAPTIONS, "white ?shark", "regex") == [False, True, True, False, False, False]


def test_words_are_whole_and_substrings_are_not():
    captions = ["a t-shirt", "two shirts", "a shirt"]
    assert found(captions, "shirt", "tokens") == [True, False, True]
    assert found(captions, "shirt", "substring") == [True, True, True]
    assert found(captions, "t-shirt", "phrase") == [True, False, False]
    assert found(captions, r"(?<!t-)\bshirt\b", "regex") == [False, False, True]


def test_words_end_at_an_underscore():
    captions = ["great_white_shark.jpg", "great＿white＿sharks.jpg"]
    assert found(captions, "shark", "tokens") == [True, False]
    assert found(captions, "great white", "phrase") == [True, True]


@pytest.mark.parametrize(
    ("caption", "term"),
    [
        ("eine STRASSE in Köln", "straße"),
        ("ＦＵＬＬ ｗｉｄｔｈ cat", "full width"),
        ("ΟΔΟΣ της Αθήνας", "οδος"),
        ("красная Акула у берега", "акула"),
        ("सफ़ेद हिन्दी किताब", "हिन्दी"),
        ("cafe\u0301 table", "café"),
    ],
)
def test_captions_in_other_scripts_and_forms(caption, term):
    assert found([caption], term, "tokens") == [True]
    assert found([caption], term, "phrase") == [True]


@pytest.mark.parametrize(
    ("caption", "pattern"),
    [
        ("eine Straße", "Straße"),
        ("EINE STRASSE", "straße$"),
        ("eine Straße", r"\bstra[ß]e\b"),
        ("a cat", "ＣＡＴ"),
        ("a ＣＡＴ", r"\bc[aeiou]t\b"),
        ("cafe\u0301", "café$"),
        ("café", "cafe\u0301$"),
        ("ΟΔΟΣ", "οδο[ς]"),
        ("（笑）", "（笑）"),
        ("what (so)?", r"\（so\)？"),
        (r"a\b", r"a\\ｂ"),
    ],
)
def test_patterns_and_captions_are_brought_to_one_form(caption, pattern):
    assert found([caption], pattern, "regex") == [True]


def test_compatible_characters_are_no_operators():
    assert found(["ab", "a*b", "a＊b"], "a＊b", "regex") == [False, True, True]


def test_the_regex_matcher_takes_patterns_and_names_as_they_are_written():
    captions = ["a red car", "a c++ book", "coloured", "cc"]
    red = ClassQuery(name="red", synonyms=["crimson"], patterns=[r"\bred\b"])
    plus = ClassQuery(name="c++")
    assert [red.sought("regex"), red.sought("tokens")] == [(r"\bred\b",), ("red", "crimson")]
    assert found(captions, red.sought("regex")[0], "regex") == [True, False, False, False]
    assert matcher_counts(captions, [red, plus])["regex"].to_dict() == {"red": 1, "c++": 1}


def test_marks_belong_to_their_words():
    assert found(["हिन्दी"], "हिन", "tokens") == [False]


def test_scripts_without_spaces_are_found_by_substring_alone():
    assert found(["大きな白いサメの写真"], "サメ", "tokens") == [False]
    assert found(["大きな白いサメの写真"], "サメ", "substring") == [True]


@given(st.text(max_size=30))
def test_folding_twice_changes_nothing_more_and_case_never_matters(text):
    assert fold(fold(text)) == fold(text)
    assert fold(text.casefold()) == fold(text)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=8), WORDS)
def test_what_is_found_as_a_phrase_is_found_as_tokens(captions, term):
    if not regex.search(r"\w", term):
        return
    phrase, tokens = (np.array(found(captions, term, matcher)) for matcher in ("phrase", "tokens"))
    assert not (phrase & ~tokens).any()
    words = term.split()
    assert found(captions, " ".join(reversed(words)), "tokens") == tokens.tolist()


@settings(max_examples=60, deadline=None)
@given(TEXTS, WORDS)
def test_a_substring_is_found_exactly_where_python_finds_it(captions, term):
    if not term.strip():
        return
    expected = [fold(term) in fold(caption or "") for caption in captions]
    assert found(captions, term, "substring") == expected
    assert found(captions, regex.escape(fold(term)), "regex") == expected


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.lists(WORDS.filter(str.strip), min_size=2, max_size=3))
def test_synonyms_are_united(captions, terms):
    union = np.any([found(captions, term, "substring") for term in terms], axis=0)
    assert Captions(captions).matches(terms, "substring").tolist() == union.tolist()


def test_counts_of_every_matcher_side_by_side():
    table = matcher_counts(CAPTIONS, [ClassQuery(name=SHARK, synonyms=["kind"])])
    assert table.loc[SHARK].to_dict() == {"tokens": 3, "phrase": 2, "regex": 2, "substring": 2}


@pytest.mark.parametrize(
    ("term", "matcher", "reason"),
    [
        ("", "tokens", "holds no word"),
        (" - ", "phrase", "holds no word"),
        (" ", "substring", "would match every caption"),
        ("(", "regex", "not a regular expression"),
        ("a*", "regex", "matches an empty caption"),
        ("a", "fuzzy", "expected one of tokens, phrase, regex, substring"),
    ],
)
def test_terms_that_mean_nothing_are_refused(term, matcher, reason):
    with pytest.raises(InputError, match=reason):
        found(["a caption"], term, matcher)


def test_classes_are_read_from_yaml(tmp_path):
    file = tmp_path / "classes.yaml"
    file.write_text("- bag\n- {name: shirt, synonyms: [blouse], exclude: [t-shirt]}\n- name: サメ\n")
    bag, shirt, shark = read_classes(file)
    assert (bag.terms, shirt.terms, shirt.exclude) == (("bag",), ("shirt", "blouse"), ("t-shirt",))
    assert shark.name == "サメ"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- bag\n- bag", "expected different classes"),
        ("[]", "at least one"),
        ("bag: 1", "found dict, expected a list of classes"),
        ("- {name: bag, synonym: [sack]}", "Extra inputs are not permitted"),
        ("- {synonyms: [sack]}", "Field required"),
        ("- {name: 3}", "valid string"),
        ("- 1\n- 2", "found 1 in the list of classes, expected text; put it in quotes"),
        ("- time: clock", "Field required|Extra inputs"),
        ("- [", "not valid YAML"),
    ],
)
def test_a_list_of_classes_that_says_something_else_is_refused(tmp_path, text, reason):
    file = tmp_path / "classes.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=reason) as failure:
        read_classes(file)
    assert str(file) in str(failure.value)


def test_a_missing_list_of_classes_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.yaml: no such file"):
        read_classes(tmp_path / "gone.yaml")

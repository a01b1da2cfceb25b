"""YAML as people write it: what is meant is read, what is doubtful is refused."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from synreal.errors import InputError
from synreal.strict_yaml import dump_yaml, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    {
        "1e-4": 1e-4, "1.5": 1.5, ".5": 0.5, "-3": -3, "0": 0, "1_000": 1000, ".inf": math.inf, "true": True,
        "yes": "yes", "off": "off", "010": "010", "1:30": "1:30", "null": None, "~": None, "": None,
        "'2024-01-01'": "2024-01-01", "no1": "no1", "0x10": "0x10", "-": [None], "1.": 1.0, ".": ".",
    }.items(),
)  # fmt: skip
def test_scalars_mean_what_they_say(text: str, value: object) -> None:
    found = parse_yaml(text, "here")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("2024-01-01", "put it in quotes"), ("2024-13-45", "put it in quotes"), ("!!int abc", "int|abc"),
        ("!!bool maybe", "not valid YAML"), ("!!python/name:os.system", "write the value without it"),
        ("!!binary aGk=", "write the value without it"), ("!!timestamp foo", "put it in quotes"),
        ("[" * 3000 + "]" * 3000, "nested more than"), ("&a [*a]", "holds itself"),
        ("a: 1\na: 2", "given twice"),
        ("? [1]\n: 2", "not valid YAML"), ("a: [1", "not valid YAML"), ("*unknown", "not valid YAML"),
    ],
)  # fmt: skip
def test_what_is_doubtful_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=f"here: not valid YAML.*({problem})|{problem}"):
        parse_yaml(text, "here")


def test_aliases_of_aliases_are_counted_and_not_written_out() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(InputError, match="once every alias is written out"):
        parse_yaml("\n".join(lines), "here")
    assert parse_yaml("a: &a [1, 2]\nb: *a", "here") == {"a": [1, 2], "b": [1, 2]}


def test_a_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="expected a list of classes in YAML"):
        read_yaml(tmp_path / "none.yaml", "a list of classes")
    (tmp_path / "latin.yaml").write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match="latin.yaml: cannot be read as YAML in UTF-8"):
        read_yaml(tmp_path / "latin.yaml", "a list")


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)


@given(values)
def test_what_is_written_is_read_back(value: object) -> None:
    assert parse_yaml(dump_yaml(value), "here") == value


@given(st.sampled_from(["1e3", "010", "yes", "2024-01-01", "~", "1:30", ".inf", "0x1"]))
def test_text_stays_text_for_any_reader(text: str) -> None:
    assert yaml.safe_load(dump_yaml([text])) == [text] == parse_yaml(dump_yaml([text]), "here")

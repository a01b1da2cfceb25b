"""Reading the parameters cell, and refusing what does not fit it."""

import ast
from pathlib import Path

import pytest

from synreal.book import parameters
from synreal.book.parameters import parse_cell, parse_value, read_parameters, read_profile, resolve
from synreal.errors import InputError


def test_cell_gives_name_type_default_and_meaning():
    cell = 'from typing import Literal\n# a note\nkind: Literal["a", "b"] = "a"  # which # of = two\n'
    cell += "sizes: list[int] = [  # how many\n    1, 2,\n]\ntag: str | None = None  # a '#' too\n"
    found = parse_cell(cell, "cell")
    assert list(found) == ["kind", "sizes", "tag"]
    assert (found["kind"].default, found["kind"].help) == ("a", "which # of = two")
    assert (found["sizes"].default, found["sizes"].help) == ([1, 2], "how many")
    assert found["tag"].annotation == "str | None" and found["tag"].default is None


def test_hash_inside_a_string_is_no_comment():
    with pytest.raises(InputError, match="no comment"):
        parse_cell('colour: str = "#ff0000"', "cell")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("n = 2  # images", r"cell, line 1: found `n = 2`; expected `name: type"),
        ("n: int = 2", "'n' has no comment"),
        ("n: int = 1 + 1  # sum", "default of 'n' is computed"),
        ("n: int = 'two'  # images", "'n' is 'two' .str.; expected int"),
        ("draws: int = 0  # of the bootstrap", "'draws' is 0 .int.; expected 1 or more"),
        ("seeds: int = 0  # trainings", "'seeds' is 0 .int.; expected 1 or more"),
        ("n: Image = 2  # images", "has type `Image`; use bool, int"),
        ("n: int = 2  # a\nn: int = 3  # b", "line 2: parameter 'n' is given twice"),
        ("n: int  # images", "'n' is None"),
        ("n: int = (  # images", "line 1"),
        ("import os", "found `import os`"),
    ],
)
def test_cell_that_breaks_the_rules_is_refused(line, message):
    with pytest.raises(InputError, match=message):
        parse_cell(line, "cell")


def test_notebook_needs_one_parameters_cell_with_a_profile(notebook, tmp_path):
    with pytest.raises(InputError, match="no parameter `profile`"):
        read_parameters(notebook(parameters="n: int = 2  # images"))
    path = notebook()
    path.write_text(path.read_text().replace('"parameters"', '"other"'))
    with pytest.raises(InputError, match="0 cells are tagged 'parameters'"):
        read_parameters(path)
    path.write_text("no json")
    with pytest.raises(InputError, match="not a Jupyter notebook"):
        read_parameters(path)
    path.write_text("{}")
    with pytest.raises(InputError, match="not a Jupyter notebook"):
        read_parameters(path)
    with pytest.raises(InputError, match="no such notebook"):
        read_parameters(tmp_path / "absent.ipynb")


def parameter(declaration: str):
    return next(iter(parse_cell(f"{declaration}  # meaning", "cell").values()))


@pytest.mark.parametrize(
    ("declaration", "text", "value"),
    [
        ("x: int = 1", "7", 7),
        ("x: int = 1", "-10_000", -10_000),
        ("x: int = 1", "0", 0),
        ("x: float = 1.0", "7", 7.0),
        ("x: float = 1.0", "1e-3", 0.001),
        ("x: float = 1.0", "-2.5e4", -25000.0),
        ("x: str = 'a'", "007", "007"),
        ("x: str = 'a'", "null", "null"),
        ("x: str = 'a'", "true", "true"),
        ("x: str | None = 'a'", "null", None),
        ("x: Optional[int] = 1", "null", None),
        ("x: bool = True", "false", False),
        ("x: list[float] = [1.0]", "[2, 7.5]", [2.0, 7.5]),
        ("x: list[str] = ['a']", "['1', b]", ["1", "b"]),
        ("x: Literal['1', '2'] = '1'", "2", "2"),
        ("x: Literal[1, 2] = 1", "2", 2),
        ("x: dict[str, int] = {}", "{a: 1}", {"a": 1}),
    ],
)
def test_text_of_the_command_line_becomes_the_declared_type(declaration, text, value):
    found = parse_value(parameter(declaration), text, "-p x")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("declaration", "text"),
    [
        ("x: int = 1", "1.0"),
        ("x: int = 1", "010"),  # 8 in YAML 1.1
        ("x: int = 1", "1:30"),  # 90 there
        ("x: int = 1", "true"),
        ("x: int = 1", "'7'"),
        ("x: float = 1.0", "fast"),
        ("x: float = 1.0", "true"),
        ("x: bool = True", "1"),
        ("x: list[int] = [1]", "7"),
        ("x: list[str] = ['a']", "[1]"),
        ("x: Literal['a', 'b'] = 'a'", "c"),
        ("x: int = 1", "null"),
    ],
)
def test_text_of_another_type_is_refused(declaration, text):
    with pytest.raises(InputError, match=r"-p x: parameter 'x' is .*expected .*Meaning: meaning"):
        parse_value(parameter(declaration), text, "-p x")


def test_value_that_is_no_yaml_is_refused():
    with pytest.raises(InputError, match="-p x: not valid YAML"):
        parse_value(parameter("x: int = 1"), "[1", "-p x")


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_command_line_wins_over_profile_over_default(notebook, tmp_path):
    profile = write(tmp_path / "lab.yaml", "all:\n  n: 5\n  rate: 1e-3\ntiny:\n  n: 6\n")
    values = resolve([notebook(), notebook(name="other")], profile, [("rate", "2")])
    assert values["tiny"] == {"profile": "lab", "n": 6, "rate": 2.0, "names": ["a"], "seed": 0}
    assert values["other"] == {"profile": "lab", "n": 5, "rate": 2.0, "names": ["a"], "seed": 0}


def test_a_shared_parameter_reaches_only_the_notebooks_that_have_it(notebook):
    small = notebook(name="small", parameters='profile: str = "mini"  # set by the runner')
    values = resolve([notebook(), small], given=[("n", "3")])
    assert values["tiny"]["n"] == 3 and values["small"] == {"profile": "mini"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("nn", "3")], "unknown parameter 'nn'; did you mean 'n'.*Known: n, names, rate, seed"),
        ([("seeed", "3")], "did you mean 'seed'"),
        ([("n", "many")], "tiny, -p n: parameter 'n' is 'many'.*expected int"),
        ([("n", "1"), ("n", "2")], "-p n: given 2 times"),
        ([("profile", "quick")], "use --profile"),
    ],
)
def test_wrong_parameter_is_refused(notebook, given, message):
    with pytest.raises(InputError, match=message):
        resolve([notebook()], given=given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tiny: {m: 3}", "section 'tiny': unknown parameter 'm'"),
        ("tinny: {n: 3}", "unknown notebook 'tinny'; did you mean 'tiny'"),
        ("all: {m: 3}", "section 'all': unknown parameter 'm'"),
        ("tiny: {n: 3.5}", "parameter 'n' is 3.5 .float.; expected int"),
        ("tiny: {profile: x}", "remove `profile`"),
        ("tiny: 3", "section 'tiny': expected `parameter: value` lines, found 3"),
        ("[1]", "expected sections named after notebooks, found list"),
        ("tiny: {n: 3, n: 4}", "key 'n' is given twice"),
        ("tiny: [", "not valid YAML"),
    ],
)
def test_profile_that_does_not_fit_is_refused(notebook, tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        resolve([notebook()], write(tmp_path / "lab.yaml", text))


def test_unknown_profile_lists_the_known_ones(notebook):
    with pytest.raises(
        InputError, match="unknown profile 'quik'; did you mean 'quick'.*mini, paper, photos, quick"
    ):
        resolve([notebook()], "quik")
    with pytest.raises(InputError, match="does not exist"):
        resolve([notebook()], "absent.yaml")


def test_shipped_profiles_fit_the_notebooks_of_the_book():
    notebooks = list(parameters.book_notebooks().values())
    assert {"mini", "quick", "photos", "paper"} == set(parameters.book_profiles())
    for profile in parameters.book_profiles():
        assert set(resolve(notebooks, profile)) == {path.stem for path in notebooks}


@pytest.mark.parametrize(
    "annotation",
    [
        "().__class__",
        "__import__('os').system('x')",
        "[int][0]",
        "list[lambda: 0]",
        "Literal[f()]",
        "bytes",
        "int | 3",
    ],
)
def test_an_annotation_is_read_and_never_evaluated(annotation):
    with pytest.raises(InputError, match="use bool, int"):
        parse_cell(f"a: {annotation} = 1  # meaning", "cell")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("int | None", "None"), ("Optional[str]", '"a"'), ("Literal['a', 2]", "2"),
        ("dict[str, list[int]]", "{}"), ("list[float | None]", "[1.5]"), ("dict", "{}"),
    ],
)  # fmt: skip
def test_types_of_the_field_are_known(annotation, value):
    assert parse_cell(f"a: {annotation} = {value}  # meaning", "cell")["a"].default == ast.literal_eval(value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{1: 0.25}", "text as the keys"),
        ("{a: .nan}", "a finite number"),
        ("{a: 2024-01-01}", "put it in quotes"),
    ],
)
def test_what_the_kernel_would_not_get_unchanged_is_refused(text, reason):
    parameter = parse_cell("shares: dict = {}  # shares", "cell")["shares"]
    with pytest.raises(InputError, match=reason):
        parse_value(parameter, text, "-p shares")


@pytest.mark.parametrize("text", ["5: {a: 1}", "~: {a: 1}", "01_world: {5: 1}"])
def test_names_of_a_profile_are_text(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match="mine.yaml, section .* expected text"):
        read_profile(str(tmp_path / "mine.yaml"))

"""Parameters of a notebook and profiles of values for them, checked before anything runs."""

import ast
import difflib
import io
import math
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nbformat
from pydantic import TypeAdapter, ValidationError

from synreal.errors import InputError
from synreal.paths import repository_root
from synreal.strict_yaml import parse_yaml, read_yaml

TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": float, "str": str, "list": list, "dict": dict}
SHAPE = "name: type = default  # meaning"
COUNTS = frozenset({"draws", "workers", "seeds"})  # numbers that no notebook can do without


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    annotation: str  # as written, for people
    type: Any  # the same, for checking
    default: Any
    help: str

    def check(self, value: Any, where: str) -> Any:
        """The value, an int made a float where a float is wanted. Raises InputError on any other mismatch."""
        try:
            checked = TypeAdapter(self.type).validate_python(value, strict=True)
        except ValidationError as error:
            raise self._unexpected(value, where, self.annotation) from error
        if problem := _not_kept(checked):
            raise self._unexpected(value, where, problem)
        if self.name in COUNTS and isinstance(checked, int) and checked < 1:
            raise self._unexpected(value, where, "1 or more")
        return checked

    def _unexpected(self, value: Any, where: str, expected: str) -> InputError:
        return InputError(
            f"{where}: parameter {self.name!r} is {value!r} ({type(value).__name__}); expected {expected}, "
            f"for example {self.default!r}. Meaning: {self.help}"
        )

    def accepts(self, value: Any) -> bool:
        """Whether the value fits the type without conversion."""
        try:
            TypeAdapter(self.type).validate_python(value, strict=True)
        except ValidationError:
            return False
        return True


def _not_kept(value: Any) -> str | None:
    """What a value must be that JSON keeps as it is, between the runner and the kernel; None where it is."""
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
        return "text as the keys (put numbers in quotes)"
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((problem for part in parts if (problem := _not_kept(part))), None)


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """The notebook in the current format. Raises InputError when it is missing or not a notebook."""
    if not path.is_file():
        raise InputError(f"{path}: no such notebook; `synreal list` names the book's")
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError, KeyError) as error:
        raise InputError(f"{path}: not a Jupyter notebook ({type(error).__name__}); save it again") from error


def read_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters of a notebook in their order. Raises InputError when the cell breaks the rules."""
    cells = read_notebook(path).cells
    tagged = [n for n, cell in enumerate(cells, 1) if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise InputError(f"{path}: {len(tagged)} cells are tagged 'parameters'; tag exactly one")
    parameters = parse_cell(cells[tagged[0] - 1].source, f"{path}, cell {tagged[0]}")
    if "profile" not in parameters:
        raise InputError(f'{path}: no parameter `profile`; add `profile: str = "mini"  # set by the runner`')
    return parameters


def parse_cell(source: str, where: str) -> dict[str, Parameter]:
    """The parameters that a cell declares. Raises InputError naming the line that breaks the rules."""
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise InputError(f"{where}, line {error.lineno}: {error.msg}; write `{SHAPE}`") from error
    comments = _comments(source)
    found: dict[str, Parameter] = {}
    for statement in statements:
        if isinstance(statement, ast.ImportFrom) and statement.module in ("typing", "__future__"):
            continue
        parameter = _parameter(statement, comments, f"{where}, line {statement.lineno}")
        if parameter.name in found:
            raise InputError(f"{where}, line {statement.lineno}: parameter {parameter.name!r} is given twice")
        found[parameter.name] = parameter
    return found


def _comments(source: str) -> dict[int, str]:
    """The comment on each line. Tokens tell a comment from a `#` inside a string."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def _parameter(statement: ast.stmt, comments: dict[int, str], where: str) -> Parameter:
    if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
        raise InputError(f"{where}: found `{ast.unparse(statement)}`; expected `{SHAPE}`")
    name, annotation = statement.target.id, ast.unparse(statement.annotation)
    lines = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
    meaning = " ".join(comments[line] for line in lines if line in comments)
    if not meaning:
        raise InputError(f"{where}: parameter {name!r} has no comment; say what it means: `{SHAPE}`")
    parameter = Parameter(name, annotation, _type(statement.annotation, name, where), None, meaning)
    default = parameter.check(_literal(statement.value, name, where), where)
    return Parameter(name, annotation, parameter.type, default, meaning)


def _type(annotation: ast.expr, name: str, where: str) -> Any:
    try:
        return _type_of(annotation)
    except (KeyError, TypeError) as error:
        known = ", ".join([*TYPES, "Literal", "Optional"])
        raise InputError(
            f"{where}: parameter {name!r} has type `{ast.unparse(annotation)}`; use {known} and `| None`"
        ) from error


def _type_of(node: ast.expr) -> Any:
    """The type that an annotation means; nothing of it is evaluated. Raises KeyError for any other."""
    match node:
        case ast.Name(id):
            return TYPES[id]
        case ast.Constant(None):
            return None
        case ast.BinOp(left, ast.BitOr(), right):
            return _type_of(left) | _type_of(right)
        case ast.Subscript(ast.Name("Optional"), inner):
            return _type_of(inner) | None
        case ast.Subscript(ast.Name("Literal"), inner):
            return Literal[tuple(_literals(inner))]
        case ast.Subscript(ast.Name("list" | "dict" as kind), inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return TYPES[kind][tuple(map(_type_of, parts))]
    raise KeyError(ast.dump(node))


def _literals(node: ast.expr) -> list[Any]:
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    if not all(isinstance(part, ast.Constant) for part in parts):
        raise KeyError(ast.dump(node))
    return [part.value for part in parts if isinstance(part, ast.Constant)]


def _literal(value: ast.expr | None, name: str, where: str) -> Any:
    try:
        return ast.literal_eval(value) if value is not None else None
    except ValueError as error:
        raise InputError(
            f"{where}: the default of {name!r} is computed; write a plain value, so that it can be replaced"
        ) from error


def unknown(name: str, known: Iterable[str], where: str, kind: str = "parameter") -> InputError:
    """The error for a name that nothing is called by, with the nearest known name."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"{where}: unknown {kind} {name!r}; {hint}Known: {', '.join(known) or 'none'}")


# Profiles: YAML files that replace parameters of many notebooks at once, and how the final values arise.
#
# A profile has one section per notebook, and `all:` for parameters that several share. The notebooks' own
# defaults are the profile `mini`, which has no file. A value on the command line wins over the profile, and
# the profile wins over the default.


DEFAULT = "mini"
Values = dict[str, Any]


def book_notebooks() -> dict[str, Path]:
    """The book's notebooks by name, in reading order."""
    return {path.stem: path for path in sorted((repository_root() / "notebooks").glob("*.ipynb"))}


def book_profiles() -> dict[str, Path | None]:
    """The shipped profiles by name; `mini` has no file."""
    files = sorted((repository_root() / "profiles").glob("*.yaml"))
    return {DEFAULT: None, **{path.stem: path for path in files}}


def read_profile(profile: str) -> tuple[str, dict[str, Values]]:
    """A profile's name and its sections; `profile` is a shipped name or the path of a file.

    Raises InputError for an unknown name, a missing file, or a file that is not sections of parameters.
    """
    path: Path | None = Path(profile)
    if not (profile.endswith((".yaml", ".yml")) or "/" in profile):
        if profile not in book_profiles():
            raise unknown(profile, book_profiles(), "--profile", "profile")
        path = book_profiles()[profile]
    if path is None:
        return profile, {}
    if not path.is_file():
        raise InputError(f"--profile: {path} does not exist; name a shipped profile or a YAML file")
    return path.stem, _sections(read_yaml(path, "sections of parameters"), path)


def _sections(content: Any, path: Path) -> dict[str, Values]:
    sections = {} if content is None else content
    if not isinstance(sections, dict):
        raise InputError(f"{path}: expected sections named after notebooks, found {type(sections).__name__}")
    for name, values in sections.items():
        if not isinstance(values, dict):
            raise InputError(f"{path}, section {name!r}: expected `parameter: value` lines, found {values!r}")
        if strange := [key for key in (name, *values) if not isinstance(key, str)]:
            raise InputError(f"{path}, section {name!r}: found the name {strange[0]!r}, expected text")
    return sections


def parse_value(parameter: Parameter, text: str, where: str) -> Any:
    """The value that `text` from the command line means for a parameter, checked.

    YAML decides, but a parameter that takes text keeps its text: `-p run_name 007` stays "007".
    """
    value = parse_yaml(text, where)
    if (value is None or isinstance(value, list | dict)) and parameter.accepts(value):
        return parameter.check(value, where)
    if parameter.accepts(text):
        return text
    return parameter.check(value, where)


def resolve(
    notebooks: Sequence[Path], profile: str = DEFAULT, given: Sequence[tuple[str, str]] = ()
) -> dict[str, Values]:
    """Every parameter's value for each notebook, by notebook name.

    given: (name, text) pairs of the command line; each reaches the notebooks that have the parameter.
    Raises InputError for an unknown name, a wrong type, or a profile that names what no notebook has.
    """
    declared = {path.stem: read_parameters(path) for path in notebooks}
    name, sections = read_profile(profile)
    _check_sections(sections, declared, profile)
    _check_given(given, declared)
    resolved = {}
    for notebook, parameters in declared.items():
        values = {key: parameter.default for key, parameter in parameters.items()}
        values |= _from_profile(sections, notebook, parameters, f"profile {profile}")
        values |= {
            k: parse_value(parameters[k], v, f"{notebook}, -p {k}") for k, v in given if k in parameters
        }
        resolved[notebook] = values | {"profile": parameters["profile"].check(name, "--profile")}
    return resolved


def _check_given(given: Sequence[tuple[str, str]], declared: Mapping[str, Mapping[str, Parameter]]) -> None:
    known = {name for parameters in declared.values() for name in parameters}
    names = [name for name, _ in given]
    for name in names:
        if name == "profile":
            raise InputError("-p profile: the profile chooses other values too; use --profile")
        if name not in known:
            raise unknown(name, known - {"profile"}, f"{', '.join(declared)}, -p")
        if names.count(name) > 1:
            raise InputError(f"-p {name}: given {names.count(name)} times; give it once")


def _check_sections(
    sections: Mapping[str, Values], declared: Mapping[str, Mapping[str, Parameter]], profile: str
) -> None:
    """A section names a notebook, and a parameter under `all` is one that some notebook has."""
    book = book_notebooks()
    for section in sections:
        if section != "all" and section not in declared and section not in book:
            raise unknown(section, {*declared, *book, "all"}, f"profile {profile}", "notebook")
    shared = sections.get("all", {})
    known = {name for parameters in declared.values() for name in parameters}
    if not set(shared) <= known:
        known |= {name for path in book.values() for name in read_parameters(path)}
    for name in shared:
        if name not in known:
            raise unknown(name, known, f"profile {profile}, section 'all'")


def _from_profile(
    sections: Mapping[str, Values], notebook: str, parameters: Mapping[str, Parameter], where: str
) -> Values:
    own = sections.get(notebook, {})
    for name in own:
        if name not in parameters:
            raise unknown(name, parameters, f"{where}, section {notebook!r}")
    shared = {name: value for name, value in sections.get("all", {}).items() if name in parameters}
    if "profile" in own or "profile" in shared:
        raise InputError(f"{where}: remove `profile`; it is the profile's own name")
    return {name: parameters[name].check(value, where) for name, value in {**shared, **own}.items()}


# What `synreal list` prints: notebooks, their parameters, the profiles.


def listing() -> str:
    """The notebooks with parameters, types, defaults (profile mini) and meaning; then the profiles."""
    chapters = [_chapter(path) for path in book_notebooks().values()]
    profiles = [f"  {name:8s} {_about(path)}" for name, path in book_profiles().items()]
    return "\n\n".join([*chapters, "\n".join(["Profiles (--profile)", *profiles])])


def _chapter(path: Path) -> str:
    lines = [_line(parameter) for name, parameter in read_parameters(path).items() if name != "profile"]
    return "\n".join([f"{path.stem}: {_title(path)}", *lines])


def _line(parameter: Parameter) -> str:
    default = repr(parameter.default)
    shown = default if len(default) <= 40 else f"{default[:36]} ..."  # the notebook shows it whole
    declaration = f"{parameter.name}: {parameter.annotation} = {shown}"
    return f"  {declaration:44s}  {parameter.help}"


def _title(path: Path) -> str:
    """The notebook's first heading, or its name when it has none."""
    cells = [cell.source for cell in read_notebook(path).cells if cell.cell_type == "markdown"]
    headings = [line for source in cells for line in source.splitlines() if line.startswith("# ")]
    return headings[0].removeprefix("# ") if headings else path.stem


def _about(path: Path | None) -> str:
    """The profile file's first comment line, and where it lies."""
    if path is None:
        return f"the notebooks' own defaults; `{DEFAULT}` has no file"
    first = path.read_text(encoding="utf-8").splitlines()[:1]
    shown = path.relative_to(repository_root())
    return f"{''.join(first).removeprefix('# ')} ({shown})"

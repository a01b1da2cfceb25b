"""The parameters of a notebook: read from its parameters cell, checked strictly before anything runs.

The cell tagged `parameters` holds one flat assignment per parameter, `name: type = default  # meaning`. The
syntax tree and the tokens are read, so a comment may hold any character and an annotation is binding.
"""

import ast
import difflib
import io
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

import nbformat
from pydantic import TypeAdapter, ValidationError

from synreal.errors import InputError

ANNOTATIONS = {
    "bool": bool, "int": int, "float": float, "str": str, "list": list, "dict": dict,
    "Literal": Literal, "Optional": Optional,
}  # fmt: skip
SHAPE = "name: type = default  # meaning"
COUNTS = frozenset({"draws", "workers"})  # numbers that no notebook can do without


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
    parameter = Parameter(name, annotation, _type(annotation, name, where), None, meaning)
    default = parameter.check(_literal(statement.value, name, where), where)
    return Parameter(name, annotation, parameter.type, default, meaning)


def _type(annotation: str, name: str, where: str) -> Any:
    try:
        return eval(annotation, {"__builtins__": {}}, dict(ANNOTATIONS))
    except (NameError, TypeError, SyntaxError, AttributeError) as error:
        raise InputError(
            f"{where}: parameter {name!r} has type `{annotation}`; use {', '.join(ANNOTATIONS)} and `| None`"
        ) from error


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

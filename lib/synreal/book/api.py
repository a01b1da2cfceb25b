"""The API page, written from the sources without importing them: fast, and no machine needs the libraries.

Docstrings of this project are Markdown and are inserted as such.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

Documented = ast.FunctionDef | ast.ClassDef


def api_page(package: Path) -> str:
    """Markdown: each module of the package with its public functions and classes, as their docstrings say."""
    modules = [p for p in sorted(package.rglob("*.py")) if not p.name.startswith("_")]
    return "\n\n".join(_module(path, _dotted(path, package)) for path in modules) + "\n"


def _dotted(path: Path, package: Path) -> str:
    return ".".join((package.name, *path.relative_to(package).with_suffix("").parts))


def _module(path: Path, name: str) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = [f"## `{name}`", _docstring(tree)]
    parts += [_entry(node, level="###") for node in _public(tree)]
    return "\n\n".join(part for part in parts if part)


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[Documented]:
    for node in tree.body:
        if isinstance(node, Documented) and not node.name.startswith("_") and ast.get_docstring(node):
            yield node


def _entry(node: Documented, level: str) -> str:
    parts = [f"{level} `{node.name}`", f"```python\n{_signature(node)}\n```", _docstring(node)]
    if isinstance(node, ast.ClassDef):
        parts += [_entry(method, level + "#") for method in _public(node)]
    return "\n\n".join(parts)


def _signature(node: Documented) -> str:
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"{node.name}({ast.unparse(node.args)}){returns}"
    fields = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign)]
    init = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    arguments = ast.unparse(init[0].args).removeprefix("self").removeprefix(", ") if init else ""
    return "\n".join([f"class {node.name}({arguments})", *(f"    {field}" for field in fields)])


def _docstring(node: ast.Module | Documented) -> str:
    """The docstring with everything outside `code` that Markdown would take for markup made plain."""
    text = ast.get_docstring(node) or ""
    pieces = re.split(r"(\{[\w:]+\}`[^`]*`|``.+?``|`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else _plain(piece) for piece in pieces)


def _plain(text: str) -> str:
    for sign, entity in {"<": "&lt;", "{": "&#123;", "$": "&#36;", "*": "&#42;"}.items():
        text = text.replace(sign, entity)
    return text

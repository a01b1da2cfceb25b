"""YAML that people write, read strictly: what is not certain to be meant is refused, and nothing runs code.

Scalars are those of YAML 1.2: only true and false are booleans, 010 is no number and 1e-4 is one. A value
that looks like a date is refused, since it may be a date or a text; so are tags, keys given twice, and files
whose nesting or aliases would exhaust the memory.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from synreal.errors import InputError

DEEPEST, LARGEST = 40, 200_000  # nesting, and values with every alias written out
FORMS = {  # of plain scalars, and what they may begin with
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    "float": (
        r"[-+]?(0|[1-9][0-9_]*)(\.[0-9_]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9][0-9_]*([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "timestamp": (r"\d{4}-\d{1,2}-\d{1,2}([Tt\s].*)?", "0123456789"),
}
TAGS = ("str", "int", "float", "bool", "null", "seq", "map", "merge")  # that a value may have


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. Raises InputError naming `where` it stands and what is wrong."""
    try:
        _check_depth(text)
        _size(yaml.compose(text, Loader=_Loader), {})
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, KeyError, RecursionError) as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


def read_yaml(path: str | Path, expected: str) -> Any:
    """The value of a YAML file. Raises InputError when it is missing, not in UTF-8, or not valid YAML.

    expected: what the file should hold, for the message, such as "a list of classes".
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path}: no such file; expected {expected} in YAML")
    try:
        text = file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: cannot be read as YAML in UTF-8: {error}") from error
    return parse_yaml(text, str(path))


def dump_yaml(value: Any, width: int = 110, flow: bool | None = False) -> str:
    """YAML that `parse_yaml` reads back as the same value; keys keep their order.

    flow: as PyYAML's default_flow_style; None writes the innermost lists on one line.
    """
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width, default_flow_style=flow
    )


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise _problem(f"key {key!r} is given twice", node.value[position][0])
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # single quotes fold the less common line breaks into spaces
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


def _with_forms(known: Mapping[str, list]) -> dict[str, list]:
    """The forms of scalars by first character: PyYAML's, with those of `FORMS` in place of its own."""
    tags = {f"tag:yaml.org,2002:{kind}": form for kind, form in FORMS.items()}
    table = {first: [form for form in forms if form[0] not in tags] for first, forms in known.items()}
    for tag, (pattern, firsts) in tags.items():
        for first in firsts:
            table.setdefault(first, []).append((tag, re.compile(f"^(?:{pattern})$")))
    return table


_Dumper.add_representer(str, _Dumper.represent_str)
_Loader.yaml_implicit_resolvers = _with_forms(yaml.SafeLoader.yaml_implicit_resolvers)
# What other readers of YAML might not take for text is quoted, too.
_Dumper.yaml_implicit_resolvers = {
    first: [*_Loader.yaml_implicit_resolvers.get(first, []), *forms]
    for first, forms in yaml.SafeDumper.yaml_implicit_resolvers.items()
}


def _problem(what: str, node: yaml.Node | yaml.Event) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


def _check_depth(text: str) -> None:
    """Raises YAMLError for deep nesting; reads events, so that no nesting exhausts the stack here."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise _problem(f"nested more than {DEEPEST} deep", event)


def _size(node: yaml.Node | None, known: dict[int, int], open_: frozenset[int] = frozenset()) -> int:
    """Values below a node, each alias written out. Raises YAMLError for too many, for an alias that holds
    itself, and for a value of a kind that is not text, number, truth value, list or mapping."""
    if node is None or id(node) in known:
        return known.get(id(node), 0)
    if id(node) in open_:
        raise _problem("an alias holds itself", node)
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind == "timestamp":
        raise _problem(f"{node.value!r} may be a date or a text; put it in quotes", node)
    if kind not in TAGS:
        raise _problem(f"tag {node.tag!r}; write the value without it", node)
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    children = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
    total = 1 + sum(_size(child, known, open_ | {id(node)}) for child in children)
    if total > LARGEST:
        raise _problem(f"more than {LARGEST:,} values once every alias is written out", node)
    known[id(node)] = total
    return total

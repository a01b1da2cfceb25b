"""Profiles: YAML files that replace parameters of many notebooks at once, and how the final values arise.

A profile has one section per notebook, and `all:` for parameters that several share. The notebooks' own
defaults are the profile `mini`, which has no file. A value on the command line wins over the profile, and the
profile wins over the default.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from synreal.book.parameters import Parameter, read_parameters, unknown
from synreal.errors import InputError
from synreal.paths import repository_root

DEFAULT = "mini"
Values = dict[str, Any]


class StrictYaml(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number (YAML 1.1 wants 1.0e-3), 010 is not 8 and 1:30 not 90, and a key
    given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                mark = node.value[position][0].start_mark
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", mark)
        return super().construct_mapping(node, deep=deep)


SCIENTIFIC = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
INTEGER = re.compile(r"^[-+]?(0|[1-9][0-9_]*)$")
INT = "tag:yaml.org,2002:int"
StrictYaml.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != INT]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
StrictYaml.add_implicit_resolver(INT, INTEGER, list("-+0123456789"))
StrictYaml.add_implicit_resolver("tag:yaml.org,2002:float", SCIENTIFIC, list("-+0123456789"))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. Raises InputError naming where it stands and what is wrong."""
    try:
        return yaml.load(text, Loader=StrictYaml)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error


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
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"--profile: {path} is not in UTF-8: {error}") from error
    return path.stem, _sections(parse_yaml(text, str(path)), path)


def _sections(content: Any, path: Path) -> dict[str, Values]:
    sections = {} if content is None else content
    if not isinstance(sections, dict):
        raise InputError(f"{path}: expected sections named after notebooks, found {type(sections).__name__}")
    for name, values in sections.items():
        if not isinstance(values, dict):
            raise InputError(f"{path}, section {name!r}: expected `parameter: value` lines, found {values!r}")
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

"""What `synreal list` prints: notebooks, their parameters, the profiles."""

from pathlib import Path

from synreal.book.parameters import Parameter, read_notebook, read_parameters
from synreal.book.profiles import DEFAULT, book_notebooks, book_profiles
from synreal.paths import repository_root


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

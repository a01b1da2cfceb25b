"""References of pages to glued values that this run has not: a run with models of your own glues other keys.

A key that the stored notebook has and the run's notebook lacks is replaced by words. A key that neither has
is a mistake in the page, and is left for Jupyter Book to complain about.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

from synreal.book.page import published_keys

ABSENT = "not measured in this run"
INLINE = re.compile(r"\{glue:text\}`(?:/notebooks/(?P<doc>[^`:]+)\.ipynb::)?(?P<key>[^`]+?)(?::[^:`]*)?`")
BLOCK = re.compile(r"```\{glue\} (?P<key>.+)\n:doc: /notebooks/(?P<doc>.+)\.ipynb\n```")


def settle_references(stage: Path, stored: Path) -> None:
    """Rewrites the staged pages and notebooks where they refer to what the staged notebooks do not hold.

    stage: the folder of the book to render. stored: the folder of the notebooks as the repository has them.
    """
    absent = dict(_absent(stage / "notebooks", stored))
    if not any(absent.values()):
        return
    for page in (stage / "book").glob("*.md"):
        page.write_text(_settled(page.read_text(), "", absent))
    for path in (stage / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = _settled(cell.source, path.stem, absent)
        nbformat.write(notebook, path)


def _absent(staged: Path, stored: Path) -> Iterator[tuple[str, set[str]]]:
    for path in staged.glob("*.ipynb"):
        if (original := stored / path.name).exists():
            yield path.stem, published_keys(original) - published_keys(path)


def _settled(text: str, own: str, absent: dict[str, set[str]]) -> str:
    def replace(match: re.Match[str]) -> str:
        return ABSENT if match["key"] in absent.get(match["doc"] or own, ()) else match[0]

    return BLOCK.sub(replace, INLINE.sub(replace, text))

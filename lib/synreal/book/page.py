"""What a notebook puts into its page: hidden values for prose, and figures with alt text and caption.

Outputs follow the "scrapbook" convention that MyST-NB's `glue` reads. A hidden output is stored in the
notebook without being displayed; other pages insert it with {glue:text}`/notebooks/NAME.ipynb::KEY:.3f`.
"""

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import nbformat
from IPython.core.getipython import get_ipython
from IPython.display import display

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIDDEN = "application/papermill.record/"
FIGURE = """<figure class="synreal-figure">
<img src="data:image/png;base64,{png}" alt="{alt}" width="{width}">
<figcaption>{caption}</figcaption>
</figure>"""


def publish_hidden(key: str, value: float | str, row: dict[str, Any] | None = None) -> None:
    """Stores a value under `key` in the notebook, and the whole measurement with it when there is one."""
    metadata = {"scrapbook": {"name": key, "mime_prefix": HIDDEN}}
    _publish({HIDDEN + "text/plain": repr(value)}, metadata | ({"measurement": row} if row else {}))


def publish_figure(key: str, fig: "Figure", *, caption: str, alt: str) -> None:
    """Displays an HTML figure: the one form whose alt text reaches both Jupyter and the book."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", bbox_inches="tight")
    png = base64.b64encode(buffer.getvalue()).decode()
    # drawn at `figure.dpi` pixels per inch, shown at 96: sharp on dense screens
    width = round(int.from_bytes(buffer.getvalue()[16:20], "big") * 96 / fig.dpi)
    text = FIGURE.format(png=png, alt=html.escape(alt), width=width, caption=html.escape(caption))
    plain = f"{alt}\n{caption}"
    plt.close(fig)  # or Jupyter would show it a second time, without its alt text
    _publish({"text/html": text, "text/plain": plain}, {"scrapbook": {"name": key, "mime_prefix": ""}})


def publish_environment(found: dict[str, Any]) -> None:
    """Stores where the notebook runs, so that an executed notebook says so wherever it goes."""
    metadata = {"scrapbook": {"name": "environment", "mime_prefix": HIDDEN}, "environment": found}
    _publish({HIDDEN + "text/plain": repr("environment")}, metadata)


def published_environment(notebook: Path) -> dict[str, Any]:
    """Where an executed notebook ran; empty when it stored nothing."""
    found = [
        dict(o.metadata.environment) for o in _outputs(notebook) if "environment" in o.get("metadata", {})
    ]
    return found[-1] if found else {}


def published_rows(notebook: Path) -> list[dict[str, Any]]:
    """The measurements stored in an executed notebook, in the order they were recorded."""
    return [
        dict(o.metadata.measurement) for o in _outputs(notebook) if "measurement" in o.get("metadata", {})
    ]


def published_keys(notebook: Path) -> set[str]:
    """The keys under which an executed notebook holds values and figures for pages."""
    return {o.metadata.scrapbook.name for o in _outputs(notebook) if "scrapbook" in o.get("metadata", {})}


def _outputs(notebook: Path) -> list[nbformat.NotebookNode]:
    cells = nbformat.read(notebook, as_version=4).cells
    return [output for cell in cells for output in cell.get("outputs", [])]


def _publish(bundle: dict[str, str], metadata: dict[str, Any]) -> None:
    if get_ipython() is not None:  # outside Jupyter there is no page to write to
        display(bundle, metadata=metadata, raw=True)

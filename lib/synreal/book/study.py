"""What a notebook records: measurements, figures, the numbers that its prose quotes."""

import base64
import html
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
from IPython.core.getipython import get_ipython
from IPython.display import display
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from synreal.errors import InputError
from synreal.paths import repository_root

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIDDEN = "application/papermill.record/"
MEASUREMENTS = "measurements"  # key of the block that holds all of a notebook's rows
FIGURE = """<figure class="synreal-figure">
<img src="data:image/webp;base64,{image}" alt="{alt}" width="{width}">
<figcaption>{caption}</figcaption>
</figure>"""


def publish_hidden(key: str, value: float | str) -> None:
    """Stores a value under `key` in the notebook, for prose to quote."""
    _publish({HIDDEN + "text/plain": repr(value)}, {"scrapbook": {"name": key, "mime_prefix": HIDDEN}})


def publish_figure(key: str, fig: "Figure", *, caption: str, alt: str) -> None:
    """Displays an HTML figure: the one form whose alt text reaches both Jupyter and the book."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="webp", bbox_inches="tight", pil_kwargs={"lossless": True, "method": 6})
    image = base64.b64encode(buffer.getvalue()).decode()
    # drawn at `figure.dpi` pixels per inch, shown at 96: sharp on dense screens
    width = round(Image.open(buffer).width * 96 / fig.dpi)
    text = FIGURE.format(image=image, alt=html.escape(alt), width=width, caption=html.escape(caption))
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
    blocks = [o.data for o in _outputs(notebook) if _key(o) == MEASUREMENTS]
    return [json.loads(line) for data in blocks for line in data[HIDDEN + "text/plain"].split("\n") if line]


def published_keys(notebook: Path) -> set[str]:
    """The keys under which an executed notebook holds values and figures for pages."""
    return {key for output in _outputs(notebook) if (key := _key(output))}


def _key(output: nbformat.NotebookNode) -> str | None:
    return output.get("metadata", {}).get("scrapbook", {}).get("name")


def _outputs(notebook: Path) -> list[nbformat.NotebookNode]:
    cells = nbformat.read(notebook, as_version=4).cells
    return [output for cell in cells for output in cell.get("outputs", [])]


def _publish(bundle: dict[str, str], metadata: dict[str, Any]) -> None:
    if get_ipython() is not None:  # outside Jupyter there is no page to write to
        display(bundle, metadata=metadata, raw=True)


# What a notebook measures: one tidy row per number, in the run folder and, as one block, in the notebook.
#
# Prose quotes a number with `Study.quote`, so that it cannot drift from the computation. The claims
# (`claim_lists/`) find their rows by column: what is measured of what, and the facets of a row.


Name = Annotated[str, Field(min_length=1)]


class Measurement(BaseModel):
    """One measured number: what, on what, how sure. `value` is finite, or None with the reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: Name
    profile: Name
    model: Name  # a classifier, or a pair of them
    data: Name  # the image set it was measured on
    metric: Name
    facets: dict[str, str | int | float] = {}  # the parts of what was measured, such as factor: brighter
    value: FiniteFloat | None
    n: Annotated[int, Field(ge=0)]  # images (or pairs, or factors) behind the value
    ci_low: FiniteFloat | None = None  # 95 % interval
    ci_high: FiniteFloat | None = None
    seed: int | None = None
    run: Name
    reason: str | None = None  # why there is no value, e.g. "no image carries this factor"

    @model_validator(mode="after")
    def _consistent(self) -> "Measurement":
        if clash := self.facets.keys() & type(self).model_fields.keys():
            raise ValueError(f"facets {sorted(clash)} have the names of columns; choose others")
        if (self.value is None) != bool(self.reason):
            raise ValueError("give a finite value, or value=None with a reason; not both, not neither")
        if (self.ci_low is None) != (self.ci_high is None):
            raise ValueError("give both ends of the interval or none")
        if self.ci_low is None or self.ci_high is None:
            return self
        if self.value is None or not self.ci_low <= self.value <= self.ci_high:
            raise ValueError(f"the interval [{self.ci_low}, {self.ci_high}] must hold the value {self.value}")
        return self

    def sentence(self) -> str:
        """Value, interval and n for prose: "0.712 (95 % interval 0.690 to 0.733, n = 2,000)"."""
        if self.value is None:
            return f"not available ({self.reason})"
        if self.ci_low is None or self.ci_high is None:
            return f"{readable(self.value)} (n = {self.n:,})"
        interval = f"{readable(self.ci_low)} to {readable(self.ci_high)}"
        return f"{readable(self.value)} (95 % interval {interval}, n = {self.n:,})"


def readable(value: float) -> str:
    """Counts without decimals, everything else with three."""
    return f"{int(value):,}" if float(value).is_integer() and abs(value) > 1 else f"{value:.3f}"


def run_folder() -> Path:
    """Folder of the current run: `SYNREAL_RUN_DIR` as the runner sets it, else `_build/interactive`."""
    named = os.environ.get("SYNREAL_RUN_DIR")
    return Path(named) if named else repository_root() / "_build" / "interactive"


class Study:
    """The measurements of one notebook in one run.

    Opening a study starts its results file anew, so running a notebook twice never doubles a row.
    """

    def __init__(self, name: str, profile: str) -> None:
        self.name, self.profile, self.folder = name, profile, run_folder()
        self._keys = {"environment", MEASUREMENTS}
        self._rows: dict[tuple, Measurement] = {}
        self._results = self.folder / "results" / f"{name}.jsonl"
        self._results.parent.mkdir(parents=True, exist_ok=True)
        self._results.write_text("")
        publish_environment({"profile": profile} | environment_of_run(self.folder))

    def record(
        self,
        *,
        metric: str,
        value: float | None,
        model: str,
        data: str,
        n: int,
        ci: tuple[float, float] | None = None,
        seed: int | None = None,
        reason: str | None = None,
        **facets: str | int | float,
    ) -> Measurement:
        """The row just written.

        n: images behind the value. ci: 95 % interval; two NaN, as the evaluation writes them, mean that
        there is none. facets: the parts of what was measured, a column each, such as factor="brighter".
        Raises InputError for a value that is not finite and has no reason, an interval that does not hold
        the value, or a second row of the same metric, model, data and facets.
        """
        low, high = (None, None) if ci is None or all(map(math.isnan, ci)) else ci
        row = self._row(
            {"metric": metric, "value": value, "model": model, "data": data, "n": n, "reason": reason}
            | {"ci_low": low, "ci_high": high, "seed": seed}
            | {"facets": {name: plain(facet) for name, facet in facets.items()}}
        )
        key = (metric, model, data, *sorted(row.facets.items()))
        if key in self._rows:
            raise InputError(f"study {self.name}: {key} is recorded twice; tell the rows apart by a facet")
        self._rows[key] = row
        with self._results.open("a") as file:
            file.write(row.model_dump_json() + "\n")  # one short write: whole lines, even when interrupted
        return row

    def record_table(
        self, table: pd.DataFrame, facets: Sequence[str] = (), seed: int | None = None
    ) -> pd.DataFrame:
        """Records each row of a tidy table; returns the table, for the figure that comes next.

        table: columns metric, model, data, value, n, and where there are any ci_low, ci_high and reason.
        facets: further columns to record, where they say something (not "", None or NaN). The reason of a
        missing value is column reason, or else note. The bootstrap of a biased statistic can leave the value
        outside its interval, which is then widened to hold it.
        Raises InputError as `record`, and for a missing column.
        """
        if missing := [name for name in (*COLUMNS, *facets) if name not in table]:
            raise InputError(f"study {self.name}: the table lacks the columns {missing}; has {list(table)}")
        for line in table.to_dict("records"):
            known = {str(name): None if pd.isna(cell) else plain(cell) for name, cell in line.items()}
            fields: dict[str, Any] = {name: known[name] for name in COLUMNS}
            if known["value"] is None:
                fields["reason"] = known.get("reason") or known.get("note") or "no image of this kind"
            elif (low := known.get("ci_low")) is not None:
                fields["ci"] = min(low, known["value"]), max(known["ci_high"], known["value"])
            own: dict[str, Any] = {name: known[name] for name in facets if known[name] not in (None, "")}
            self.record(**fields, seed=seed, **own)
        return table

    def quote(self, key: str, **columns: str | int | float) -> Measurement:
        """Gives a measurement to prose: its number under `key`, its sentence under `key`.text.

        columns: of the row, facets among them, enough to single it out. Raises InputError listing what there
        is when they select none or several, or when the key was used before.
        """
        table = measurements_table(list(self._rows.values()))
        chosen = select(table, columns)
        if len(chosen) != 1:
            there_is = f"they differ in {differing(chosen)}" if len(chosen) else choices(table, columns)
            found = f"{columns} selects {len(chosen)} rows of {self.name}, not one"
            raise InputError(f"quote {key!r}: {found}; {there_is}")
        row = measurement_of(chosen.iloc[0])
        missing = float("nan")  # formats like a number, so {glue:text}`key:.3f` still renders
        publish_hidden(self._new_key(key), missing if row.value is None else row.value)
        publish_hidden(self._new_key(f"{key}.text"), row.sentence())
        return row

    def publish(self) -> None:
        """Stores all rows recorded so far in the notebook, as one block; once, in its last cell."""
        rows = list(self._rows.values())
        lines = "\n".join(row.model_dump_json(exclude_defaults=True) for row in rows)
        metadata = {"scrapbook": {"name": MEASUREMENTS, "mime_prefix": HIDDEN}}
        _publish({HIDDEN + "text/plain": lines}, metadata)

    def glue(self, key: str, value: float | str) -> None:
        """Gives a verdict, a count or a name to prose as {glue:text}`key:s` (numbers: `key:.3f`)."""
        publish_hidden(self._new_key(key), value)

    def figure(self, key: str, fig: "Figure", *, caption: str, alt: str | None = None) -> None:
        """Shows a figure with its caption; other pages can show it again with the `glue` directive.

        alt: what the figure shows and says, for readers who cannot see it; by default what the function of
        `plots` that drew the figure says in its label. Raises InputError when either text is empty.
        """
        alt = str(fig.get_label()) if alt is None else alt
        for name, text in {"caption": caption, "alt": alt}.items():
            if not text.strip():
                raise InputError(f"figure {key!r}: {name} is empty; say in words what the figure shows")
        publish_figure(self._new_key(key), fig, caption=caption, alt=alt)

    def _row(self, fields: dict[str, Any]) -> Measurement:
        found = {name: plain(value) for name, value in fields.items()}
        context = {"study": self.name, "profile": self.profile, "run": self.folder.name}
        try:
            return Measurement.model_validate(found | context)
        except ValidationError as error:
            problems = "; ".join(problem["msg"] for problem in error.errors())
            what = f"{fields['metric']!r} of {fields['model']!r}"
            raise InputError(f"study {self.name}: cannot record {what}: {problems}; found {found}") from error

    def _new_key(self, key: str) -> str:
        if key in self._keys:
            raise InputError(f"study {self.name}: key {key!r} is used twice; choose another")
        self._keys.add(key)
        return key


def plain(value: Any) -> Any:
    """numpy's numbers become Python's, so that files and pages never say np.float64(...)."""
    return value.item() if isinstance(value, np.generic) else value


COLUMNS = ("metric", "model", "data", "value", "n")  # of a table to record


def measurements_table(rows: Sequence[Measurement]) -> pd.DataFrame:
    """One line for each measurement: the columns of `Measurement`, then a column for each facet."""
    fields = [name for name in Measurement.model_fields if name != "facets"]
    named = dict.fromkeys(name for row in rows for name in row.facets)
    lines = [row.model_dump(exclude={"facets"}) | row.facets for row in rows]
    return pd.DataFrame(lines, columns=[*fields, *named])


def measurement_of(line: pd.Series) -> Measurement:
    """The measurement of a line of `measurements_table`."""
    known = {str(name): plain(cell) for name, cell in line.items() if not pd.isna(cell)}
    facets = {name: known.pop(name) for name in list(known) if name not in Measurement.model_fields}
    return Measurement.model_validate({"value": None} | known | {"facets": facets})


def select(table: pd.DataFrame, columns: Mapping[str, str | int | float]) -> pd.DataFrame:
    """The lines of a table in which every named column has the given value."""
    keep = pd.Series(True, index=table.index)
    for name, value in columns.items():
        keep &= (table[name] == value) if name in table else False
    return table[keep]


def differing(rows: pd.DataFrame) -> str:
    """The names of the columns in which lines differ, for messages."""
    return ", ".join(column for column in rows if rows[column].nunique(dropna=False) > 1) or "nothing"


def choices(table: pd.DataFrame, columns: Iterable[str]) -> str:
    """What a table holds in these columns, for messages."""
    known = {name: table[name].dropna().unique() if name in table else [] for name in columns}
    return "; ".join(f"{name} is one of: {', '.join(map(str, known[name]))}" for name in known)


def read_results(folder: Path) -> pd.DataFrame:
    """All measurements of a run folder, one row each, columns as in `Measurement`; empty when there are none.

    Raises InputError naming file and line when a row cannot be read.
    """
    rows = []
    for path in sorted((Path(folder) / "results").glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
            try:
                rows.append(Measurement.model_validate_json(line))
            except ValidationError as error:
                raise InputError(
                    f"{path}, line {number}: not a measurement ({error.errors()[0]['msg']}); "
                    "run the notebook again"
                ) from error
    return measurements_table(rows)


def read_notebook_results(notebooks: list[Path]) -> pd.DataFrame:
    """The same table from executed notebooks, which carry their measurements as one block."""
    return measurements_table(
        [Measurement.model_validate(row) for path in notebooks for row in published_rows(path)]
    )


PACKAGES = (
    "torch", "torchvision", "diffusers", "transformers", "timm", "open-clip-torch", "datasets",
    "numpy", "pandas", "scipy", "scikit-learn", "statsmodels", "matplotlib", "seaborn", "papermill",
)  # fmt: skip


def environment_of_run(folder: Path) -> dict[str, Any]:
    """Revision, machine and main packages as the runner noted them; empty outside a run, as in Jupyter."""
    path = folder / "run.json"
    if not path.exists():
        return {}
    about = json.loads(path.read_text(encoding="utf-8"))
    packages = about["environment"]["packages"]
    main = {name: packages[name] for name in PACKAGES if name in packages}
    return about["git"] | about["environment"] | {"packages": main}

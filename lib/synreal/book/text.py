"""How chapter 05_text_realtune names its measurements, so that the ledger and the pages find them.

Study "05_text_realtune" records, with `data` the test text and n its texts,

| metric | value | model |
|---|---|---|
| `loss` | nats per token of held-out real text, mean over seeds | a model of `text.study.model_names` |
| `perplexity`, `bits_per_byte` | the same loss in other units | the same |
| `loss_change` | loss after tuning minus loss before | "GPT2-Syn (RealTune)" and so on |
| `loss_gap` | loss of the first minus loss of the second | "GPT2-Syn vs GPT2-Real", see CONTRASTS |

and, with `data` the real text and n the texts (of both sets the fewer),

| metric | value | model |
|---|---|---|
| `<measure>/<statistic>` | a row of `text.measures.compare` | the synthetic set |

Statistics: real, synthetic, difference, ratio. Measures: coverage, length, tail mass, distinct words,
distinct trigrams, repetition, judged loss.
"""

from collections.abc import Iterable
from dataclasses import asdict

import pandas as pd

from synreal.book.study import Study
from synreal.evaluate.repeated import Estimate
from synreal.text.train import BOTH, MIX, REAL, SEEN, SYN, TUNINGS, Losses, Trained, tuned_names

CONTRASTS = (
    (SYN, REAL),
    (f"{SYN} (RealTune)", REAL),
    (f"{SYN} (RealTune)", f"{SYN} (SynTune)"),
    (f"{SYN} (RealTune)", BOTH),  # the same real text, for tuning or from the start
    (f"{REAL} (RealTune)", f"{REAL} ({SEEN})"),  # new real text, or text it has learned from
    (MIX, REAL),
    (MIX, f"{SYN} (RealTune)"),
    (f"{MIX} (RealTune)", f"{SYN} (RealTune)"),
)


def record_losses(
    study: Study, trained: Trained, data: str, draws: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Record every model alone, then changes and gaps; a table of each, with metric, model and interval."""
    found = Losses(trained.losses, draws, seed)
    n = int(next(iter(trained.losses.values()))[0]["texts"].sum())
    alone = [
        (metric, model, estimate(model))
        for metric, estimate in (
            ("loss", found.loss), ("perplexity", found.perplexity), ("bits_per_byte", found.bits_per_byte)
        )
        for model in trained.losses
    ]  # fmt: skip
    changes = [
        ("loss_change", name, found.difference(name, base))
        for base, tunings in TUNINGS.items()
        for name in tuned_names(base, tunings)
    ]
    gaps = [("loss_gap", f"{one} vs {other}", found.difference(one, other)) for one, other in CONTRASTS]
    tables = [_table(rows, data, n) for rows in (alone, changes + gaps)]
    return _record(study, tables[0], seed), _record(study, tables[1], seed)


def record_texts(study: Study, table: pd.DataFrame, model: str, data: str, seed: int) -> pd.DataFrame:
    """Record a table of `compare_texts` for the synthetic set called `model`; returns it with that name."""
    metric = table["measure"] + "/" + table["statistic"]
    return _record(study, table.assign(metric=metric, model=model, data=data), seed)


def _table(rows: Iterable[tuple[str, str, Estimate]], data: str, n: int) -> pd.DataFrame:
    return pd.DataFrame(
        [{"metric": metric, "model": model} | asdict(found) for metric, model, found in rows]
    ).assign(data=data, n=n)


def _record(study: Study, table: pd.DataFrame, seed: int) -> pd.DataFrame:
    for row in table.to_dict("records"):
        missing = pd.isna(row["value"])
        study.record(
            metric=row["metric"],
            value=None if missing else row["value"],
            model=row["model"],
            data=row["data"],
            n=int(row["n"]),
            ci=None if missing else (row["ci_low"], row["ci_high"]),
            seed=seed,
            reason="nothing to divide by" if missing else None,
        )
    return table

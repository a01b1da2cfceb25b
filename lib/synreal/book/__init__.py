"""Runner, records, ledger and plots of the book."""

from synreal.book.claims import (
    claims_markdown,
    judge_claims,
    ledger_table,
    paper_table,
    paper_value,
    verdict_counts,
)
from synreal.book.study import Measurement, Study, read_notebook_results, read_results, run_folder

__all__ = [
    "Measurement",
    "Study",
    "claims_markdown",
    "judge_claims",
    "ledger_table",
    "paper_table",
    "paper_value",
    "read_notebook_results",
    "read_results",
    "run_folder",
    "verdict_counts",
]

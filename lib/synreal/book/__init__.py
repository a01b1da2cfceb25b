"""Runner, records, ledger and plots of the book."""

from synreal.book.record import Measurement, Study, read_notebook_results, read_results, run_folder

__all__ = ["Measurement", "Study", "read_notebook_results", "read_results", "run_folder"]

"""Runner, records, ledger and plots of the book."""

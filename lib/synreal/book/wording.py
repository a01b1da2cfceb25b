"""How numbers are written in tables."""

import pandas as pd


def p_value(p: float) -> str:
    """With four decimals, never as a bare 0; empty where there was no test."""
    return "" if pd.isna(p) else "< 0.0001" if p < 1e-4 else f"{p:.4f}"

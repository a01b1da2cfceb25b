"""Tables of the book: estimates in words, and numbers beside those of a paper."""

import numpy as np
import pandas as pd
import pytest

from synreal.book.tables import beside_paper, estimate, estimates, p_value

NAN = np.nan
MEASURED = pd.DataFrame(
    [("vit", "gap", 0.2, 0.15, 0.25), ("vit", "dark", -0.3, NAN, NAN), ("clip", "gap", NAN, NAN, NAN)],
    columns=["pair", "metric", "value", "ci_low", "ci_high"],
)
PRINTED = pd.DataFrame(
    [("vit", "gap", 0.261), ("vit", "dark", 0.007), ("clip", "gap", 0.111), ("clip", "dark", -0.032)],
    columns=["pair", "metric", "paper"],
)


def test_p_values_are_never_a_bare_zero() -> None:
    assert [p_value(p) for p in (0.04123, 0.00001, NAN)] == ["0.0412", "< 0.0001", ""]


def test_an_estimate_shows_what_is_known() -> None:
    assert estimate(0.0214, 0.008, 0.034) == "0.021 (0.008 to 0.034)"
    assert estimate(0.0214, -0.008, 0.034, "+.1%") == "+2.1% (-0.8% to +3.4%)"
    assert estimate(0.0214, NAN, NAN) == "0.021" and estimate(NAN, NAN, NAN) == ""
    cells = estimates(MEASURED.set_index("metric"), "+.2f")
    assert cells.tolist() == ["+0.20 (+0.15 to +0.25)", "-0.30", ""] and cells.index[1] == "dark"


def test_a_papers_numbers_stand_beside_with_their_sign() -> None:
    table = beside_paper(MEASURED, PRINTED, on=["pair", "metric"])
    assert table.index.names == ["pair", "metric"] and len(table) == len(PRINTED)
    assert table.loc[("vit", "gap")].tolist() == ["+0.200 (+0.150 to +0.250)", "+0.261", "yes"]
    assert table.loc[("vit", "dark")].tolist() == ["-0.300", "+0.007", "no"]
    for metric in ("gap", "dark"):  # without a value, and without a line
        assert table.loc[("clip", metric), ["here", "same sign"]].tolist() == ["not measured", ""]


def test_numbers_without_a_sign_compare_none() -> None:
    table = beside_paper(MEASURED, PRINTED, on=["pair", "metric"], form=".1%")
    assert list(table) == ["here", "paper"] and table["paper"].iloc[0] == "26.1%"


def test_a_printed_number_has_one_line() -> None:
    with pytest.raises(ValueError, match="not a many-to-one merge"):
        beside_paper(pd.concat([MEASURED, MEASURED]), PRINTED, on=["pair", "metric"])

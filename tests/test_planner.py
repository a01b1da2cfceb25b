"""The budget planner, its table of measured mixes, and the command `synreal plan`."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from synreal import cli
from synreal.errors import InputError
from synreal.evaluate.planner import (
    Prices,
    check_mixes,
    fit_mixes,
    plan_for_budget,
    plan_for_target,
    read_mixes,
)

FIRST, MOST = 0.3, 700.0  # what the first synthetic images, and all together, are worth in real ones


def measured(noise=0.004, first=FIRST, most=MOST, seed=0):
    rng = np.random.default_rng(seed)
    sizes = [(r, s) for r in (0, 250, 1000, 4000) for s in (0, 500, 1000, 4000) if r + s] * 3
    table = pd.DataFrame(sizes, columns=["n_real", "n_syn"])
    worth = table["n_real"] + first * table["n_syn"] / (1 + first * table["n_syn"] / most)
    accuracy = 0.7 - 0.4 * (worth / 250) ** -0.4 + noise * rng.standard_normal(len(table))
    return table.assign(accuracy=accuracy.clip(0.05))


@pytest.fixture(scope="module")
def law():
    return fit_mixes(check_mixes(measured()))


def test_the_law_finds_what_synthetic_images_are_worth(law):
    assert np.exp(law.law[3]) == pytest.approx(FIRST, rel=0.25)
    assert np.exp(law.law[4]) * law.smallest == pytest.approx(MOST, rel=0.25)
    assert law.miss < 0.02 and (law.most_real, law.most_synthetic) == (4000, 4000)


def test_prices_decide_what_to_buy(law):
    mixed = plan_for_budget(law, Prices(0.1, 0.005), 50)
    assert mixed.real > 0 and mixed.synthetic > 0 and mixed.cost <= 50
    assert mixed.real_interval[0] <= mixed.real <= mixed.real_interval[1] < 500
    assert mixed.synthetic_interval[0] > 0
    assert all(low > 0 for _, low, _ in mixed.gains.values())
    dear = plan_for_budget(law, Prices(0.1, 1.0), 50)
    assert dear.synthetic == 0 and dear.gains["real only"][0] == 0
    cheap = plan_for_budget(law, Prices(50.0, 0.01), 40)
    assert cheap.real == 0 and cheap.real_interval == (0, 0)
    rich = plan_for_budget(law, Prices(0.1, 0.005), 1e6)
    assert (rich.real, rich.synthetic) == (4000, 4000)  # never beyond what was measured


def test_a_target_is_reached_at_the_lowest_price(law):
    plan = plan_for_target(law, Prices(0.1, 0.005), 0.45)
    assert plan.accuracy[0] >= 0.45
    less = plan_for_budget(law, Prices(0.1, 0.005), 0.9 * plan.cost)
    assert less.accuracy[0] < 0.45
    assert plan_for_target(law, Prices(0.1, 0.005), 0.69) is None
    real, synthetic = (kind.ravel() for kind in np.meshgrid(np.arange(0, 4001, 4), np.arange(0, 4001, 4)))
    enough = law.accuracy(real, synthetic) >= 0.45
    assert plan.cost < 1.01 * (real * 0.1 + synthetic * 0.005)[enough].min()


def test_a_target_may_cost_less_than_one_real_image(law):
    plan = plan_for_target(law, Prices(50.0, 0.01), 0.3)
    assert plan.real == 0 and plan.cost < 35


def test_worthless_synthetic_images_are_not_bought():
    law = fit_mixes(check_mixes(measured(first=1e-3, most=5.0).query("n_real > 0 or n_syn == 4000")))
    plan = plan_for_budget(law, Prices(0.1, 0.05), 100)
    assert plan.gains["real only"][0] < 0.01


def test_seeds_that_all_mixes_share_vary_together():
    """A seed that is lucky with every mix moves the accuracy, and not what one mix gains over another."""
    table = measured(noise=0.0).assign(seed=np.repeat([0, 1, 2], 15))
    table["accuracy"] += 0.02 * (table["seed"] - 1)
    mix, other = np.array([1000]), np.array([0])
    widths = {}
    for name, rows in (("shared", table), ("apart", table.drop(columns="seed"))):
        law = fit_mixes(check_mixes(rows))
        low, high = law.band(mix, mix)
        _, gain_low, gain_high = law.gain((1000, 1000), mix, other)
        widths[name] = float(high[0] - low[0]), float(gain_high[0] - gain_low[0])
    assert widths["shared"][0] == pytest.approx(2 * 4.303 * 0.02 / 3**0.5, rel=0.1)
    assert widths["shared"][0] > 2 * widths["apart"][0] and widths["shared"][1] < widths["apart"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="n_syn"), r"no columns \['n_syn'\]"),
        (lambda t: t.assign(accuracy=t["accuracy"] * 100), "45 rows are out of range, first"),
        (lambda t: t.assign(n_real=-1), "out of range"),
        (lambda t: t.assign(n_real=100.5), "45 rows are out of range, first .*expected whole numbers"),
        (lambda t: t.assign(accuracy=True), "45 rows are out of range"),
        (lambda t: t.assign(n_real=np.inf), "45 rows are out of range"),
        (lambda t: t.assign(accuracy="high"), "out of range"),
        (lambda t: t[t["n_syn"] == 0], "found 3 different mixes, 3 of them of real images alone"),
        (lambda t: t.drop_duplicates(["n_real", "n_syn"]), "15 mixes were trained once, first"),
    ],
)
def test_bad_tables_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        check_mixes(change(measured()))


@pytest.mark.parametrize("price", [0, -1, float("nan"), float("inf")])
def test_bad_prices_and_wishes_are_refused(price, law):
    with pytest.raises(InputError, match="price of a synthetic image: found"):
        Prices(1.0, price)
    with pytest.raises(InputError, match="budget: found 0.001"):
        plan_for_budget(law, Prices(1.0, 0.01), 0.001)
    with pytest.raises(InputError, match="target: found 70"):
        plan_for_target(law, Prices(1.0, 0.01), 70)


def test_plans_stay_within_what_was_measured(law):
    """Nothing is said of fewer images than the smallest mix had, and no accuracy leaves 0 to 1."""
    few = law.accuracy(np.array([0, law.smallest - 1]), np.array([0, 0]))
    assert np.isnan(few).all()
    hopeless = replace(law, law=np.array([0.9, 0.9, 0.5, 0.0, 8.0]))  # an error of 1.8 at the smallest mix
    assert hopeless.accuracy(np.array([law.smallest]), np.array([0]))[0] == 0
    dear = plan_for_budget(law, Prices(10.0, 0.01), 45)  # buys four real images
    assert set(dear.gains) == {"synthetic only"} and 0 <= dear.accuracy[0] <= 1
    with pytest.raises(InputError, match="the price of the smallest mix measured"):
        plan_for_budget(law, Prices(10.0, 0.01), 0.5)


def test_files(tmp_path):
    measured().to_parquet(tmp_path / "a.parquet")
    measured().to_csv(tmp_path / "a.csv", index=False)
    assert np.allclose(read_mixes(tmp_path / "a.csv"), read_mixes(tmp_path / "a.parquet"))
    (tmp_path / "broken.parquet").write_text("x")
    (tmp_path / "empty.csv").write_text("")
    wrong = {"none.csv": "no such file", "a.txt": "ending '.txt'"}
    wrong |= {"broken.parquet": "cannot be read", "empty.csv": "cannot be read as csv"}
    for name, message in wrong.items():
        with pytest.raises(InputError, match=message):
            read_mixes(tmp_path / name)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["synreal", "plan", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_the_command_and_its_exit_status(tmp_path, monkeypatch, capsys):
    measured().to_csv(tmp_path / "a.csv", index=False)
    given = [tmp_path / "a.csv", "--price-real", 0.1, "--price-synthetic", 0.005]
    assert run(monkeypatch, *given, "--budget", 50) == 0
    said = capsys.readouterr().out
    assert "real labels" in said and "gain over real only" in said and "misses" in said
    assert run(monkeypatch, "nowhere.csv", *given[1:], "--target", 70) == 2
    assert "target: found 70" in capsys.readouterr().err  # before the file is read
    assert run(monkeypatch, *given, "--target", 0.45) == 0
    assert "accuracy" in capsys.readouterr().out
    assert run(monkeypatch, *given, "--target", 0.69) == 1
    assert "No mix of up to 4,000 real and 4,000 synthetic" in capsys.readouterr().out
    assert run(monkeypatch, *given, "--budget", "inf") == 2
    assert "budget: found inf" in capsys.readouterr().err
    assert run(monkeypatch, *given) == 2
    assert "either --budget or --target" in capsys.readouterr().err
    assert run(monkeypatch, tmp_path / "b.csv", *given[1:], "--budget", 50) == 2
    assert "no such file" in capsys.readouterr().err


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("n_real,accuracy,n_syn,accuracy\n1,0.5,0,0.6\n")
    with pytest.raises(InputError, match=r"m.csv: found the columns \['accuracy'\] more than once"):
        read_mixes(tmp_path / "m.csv")

"""How many processes work side by side."""

import pytest
import torch
from joblib import delayed

from synreal.errors import InputError
from synreal.workers import LIMIT, one_thread, side_by_side


@pytest.mark.parametrize(("limit", "asked", "used"), [(None, 2, 2), ("1", 2, 1), ("3", 2, 2), ("", 2, 2)])
def test_the_variable_lowers_the_number_of_processes(limit, asked, used, monkeypatch):
    monkeypatch.delenv(LIMIT, raising=False)
    if limit is not None:
        monkeypatch.setenv(LIMIT, limit)
    assert side_by_side(asked).n_jobs == used


@pytest.mark.parametrize("limit", ["0", "-1", "two", "1.5"])
def test_another_value_is_refused_by_name(limit, monkeypatch):
    monkeypatch.setenv(LIMIT, limit)
    with pytest.raises(InputError, match=f"{LIMIT}: is '{limit}', expected a whole number of at least 1"):
        side_by_side(2)


def test_one_worker_is_this_process(monkeypatch):
    monkeypatch.setenv(LIMIT, "1")
    seen = []
    side_by_side(2, backend="multiprocessing")(delayed(seen.append)(i) for i in range(3))
    assert seen == [0, 1, 2]


def test_one_thread_ends_with_the_threads_there_were():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), one_thread():
        assert torch.get_num_threads() == 1
        _ = 1 / 0
    assert torch.get_num_threads() == before

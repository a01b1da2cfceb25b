"""What is written appears whole, what is hashed is hashed once, and how many processes work side by side."""

import os
import shutil

import pytest
import torch
from joblib import delayed

from synreal import cache
from synreal.cache import (
    LIMIT,
    atomic,
    compute,
    file_hash,
    file_hashes,
    one_thread,
    only_here,
    read_record,
    side_by_side,
    write_text,
)
from synreal.errors import InputError


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


def where(number):
    return number, os.getpid(), torch.get_num_threads()


def test_jobs_come_back_in_order_from_processes_of_one_thread(monkeypatch):
    monkeypatch.delenv(LIMIT, raising=False)
    found = compute(where, [(n,) for n in range(6)], workers=2)
    assert [number for number, *_ in found] == list(range(6))
    assert os.getpid() not in {process for _, process, _ in found}
    assert {threads for *_, threads in found} == {1}


def test_fewer_processes_than_asked_for_compute_on_one_thread_too(monkeypatch):
    monkeypatch.setenv(LIMIT, "1")
    assert compute(where, [(0,)], workers=2) == [(0, os.getpid(), 1)]


def test_one_worker_keeps_its_threads():
    assert compute(where, [(0,)], workers=1) == [(0, os.getpid(), torch.get_num_threads())]


def test_with_a_gpu_nothing_is_forked(monkeypatch):
    monkeypatch.delenv(LIMIT, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    backends = []
    monkeypatch.setattr(
        "synreal.cache.side_by_side", lambda workers, **options: (backends.append(options), list)[1]
    )
    compute(where, [(0,), (1,)], workers=2)
    assert backends == [{}]


def test_one_thread_ends_with_the_threads_there_were():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), one_thread():
        assert torch.get_num_threads() == 1
        _ = 1 / 0
    assert torch.get_num_threads() == before


def test_a_file_or_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(OSError, match="no space"), atomic(tmp_path / "a" / "x.txt") as partial:
        partial.write_text("half")
        raise OSError("no space left")
    assert list((tmp_path / "a").iterdir()) == []
    with atomic(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "x").write_text("whole")
        assert not (tmp_path / "folder").exists()
    write_text(tmp_path / "x.txt", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder", "x.txt"]


def test_two_writers_have_places_of_their_own_even_with_one_process_number(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with atomic(tmp_path / "x.txt") as first, atomic(tmp_path / "x.txt") as second:
        assert first != second and first.suffix == ".txt"
        first.write_text("a")
        second.write_text("b")
    assert (tmp_path / "x.txt").read_text() == "a"


def test_a_file_is_hashed_once_and_again_when_its_content_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    asked = []
    monkeypatch.setattr(cache, "file_hash", lambda file: asked.append(file.name) or file_hash(file))
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_text(file.name)
        os.utime(file, (0, 0))
    before = file_hashes(files)
    assert before == file_hashes(files) == [file_hash(file) for file in files] and asked == ["a", "b"]
    (tmp_path / "new").write_text("c")
    os.utime(tmp_path / "new", (0, 0))
    shutil.move(tmp_path / "new", files[0])  # the same name, size and time of content
    after = file_hashes(files)
    assert after[0] != before[0] and after[1] == before[1] and asked == ["a", "b", "a"]


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    with only_here(tmp_path / "out"):
        with pytest.raises(InputError, match="another process is writing here"), only_here(tmp_path / "out"):
            pass
        with only_here(tmp_path / "other"):
            pass
    with only_here(tmp_path / "out"):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', "[" * 100_000, "\x00"])
def test_a_damaged_record_is_named_with_what_to_delete(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(InputError, match=r"record.json: damaged .* delete this file"):
        read_record(tmp_path / "record.json", ["b"])

"""Run folders: what they hold, that nothing is overwritten, that a run goes on after any stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml

from synreal.book import run as runs
from synreal.book.run import CellFailed, RunFolder, default_run_path, find_notebooks
from synreal.book.study import read_results
from synreal.errors import InputError


def run(*notebooks: Path, out: Path, **options) -> Path:
    return runs.run(list(notebooks), out=out, progress=False, **options)


def text_of(folder: Path, name: str = "tiny") -> str:
    cells = nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def finished(folder: Path, name: str = "tiny") -> dict:
    return json.loads((folder / "finished" / f"{name}.json").read_text())


def test_run_folder_holds_all_that_a_result_needs(notebook, tmp_path):
    folder = run(notebook(records=True), out=tmp_path / "run", given=[("n", "3"), ("seed", "7")])
    assert text_of(folder) == "3 0.5 ['a']\n"
    values = yaml.safe_load((folder / "parameters" / "tiny.yaml").read_text())
    assert values == {"profile": "mini", "n": 3, "rate": 0.5, "names": ["a"], "seed": 7}
    row = json.loads((folder / "results.jsonl").read_text())
    assert (row["study"], row["value"], row["run"], row["seed"]) == ("tiny", 3.0, "run", 7)
    about = json.loads((folder / "run.json").read_text())
    assert about["profile"] == "mini" and set(about["git"]) == {"revision", "dirty"}
    environment = about["environment"]
    assert environment["python"] == sys.version.split()[0] and environment["torch_threads"] >= 1
    assert (
        environment["packages"]["papermill"] and environment["cpu"] and environment["cores"] == os.cpu_count()
    )
    record = finished(folder)
    assert record["seeds"] == {"seed": 7} and [cell["cell"] for cell in record["cells"]] == [2, 3, 4]
    assert record["seconds"] >= sum(cell["seconds"] for cell in record["cells"]) > 0
    assert not list((folder / "partial").iterdir())


def test_only_changed_values_are_injected_and_no_machine_path_is_stored(notebook, tmp_path):
    path = notebook()
    plain = run(path, out=tmp_path / "plain") / "notebooks" / "tiny.ipynb"
    assert "injected-parameters" not in plain.read_text()
    assert str(tmp_path) not in json.dumps(nbformat.read(plain, as_version=4).metadata)
    changed = run(path, out=tmp_path / "changed", given=[("n", "3")]) / "notebooks" / "tiny.ipynb"
    injected = [
        c for c in nbformat.read(changed, as_version=4).cells if "injected" in str(c.metadata.get("tags"))
    ]
    assert len(injected) == 1 and "n = 3" in injected[0].source and "rate" not in injected[0].source


def test_traps_of_papermill_do_not_reach_the_user(notebook, tmp_path, caplog):
    """A `str` of digits stays text, a comment with `=` hides nothing, quotes and non-ASCII survive."""
    parameters = 'profile: str = "mini"  # set by the runner\nid: str = "1"  # digits, id=007\n'
    parameters += 'says: str = "x"  # a = b\nlow: float = 1.0  # tiny\nnone: str | None = "x"  # may be null'
    path = notebook("print([id, says, low, none])", parameters=parameters)
    awkward = "a \"b\" 'c' \\ {d} é"
    given = [("id", "007"), ("says", awkward), ("low", "1e-7"), ("none", "null")]
    folder = run(path, out=tmp_path / "run", given=given)
    assert text_of(folder) == f"{['007', awkward, 1e-7, None]}\n"
    assert "unknown parameter" not in caplog.text


def test_kernel_is_this_python_in_the_repository_root_whatever_is_registered(notebook, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    spec.joinpath("kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "another"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.chdir(tmp_path)
    path = notebook("import os, sys\nprint(sys.executable, os.getcwd(), os.environ['SYNREAL_RUN_DIR'])")
    folder = run(path, out=Path("run"))
    root = Path(__file__).resolve().parents[1]
    assert text_of(folder) == f"{sys.executable} {root} {tmp_path / 'run'}\n"
    assert "SYNREAL_RUN_DIR" not in os.environ


def test_wrong_parameter_stops_before_anything_is_written(notebook, tmp_path):
    with pytest.raises(InputError, match="did you mean 'n'"):
        run(notebook(), out=tmp_path / "run", given=[("nn", "3")])
    assert not (tmp_path / "run").exists()


def test_finished_notebook_is_kept_until_its_source_changes(notebook, tmp_path, capsys):
    path = notebook(records=True)
    folder = run(path, out=tmp_path / "run")
    before = finished(folder)
    assert (folder / "results.jsonl").read_text()
    run(path, notebook("print('second')", name="second"), out=tmp_path / "run")
    assert finished(folder) == before and text_of(folder, "second") == "second\n"
    assert "tiny: finished before" in capsys.readouterr().err
    notebook("print('new source')")
    run(path, out=tmp_path / "run")
    assert text_of(folder) == "new source\n" and (folder / "results.jsonl").read_text() == ""


def test_finished_notebook_is_kept_until_the_files_that_it_names_change(notebook, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("a")
    options = {"out": tmp_path / "run", "given": [("names", f"[none, 'imagenet1k:{tmp_path}/photos']")]}
    folder = run(notebook(), **options)
    before = finished(folder)
    run(notebook(), **options)
    assert finished(folder) == before
    (tmp_path / "photos" / "b.txt").write_text("b")
    run(notebook(), **options)
    assert finished(folder)["sources"]["inputs"] != before["sources"]["inputs"]


def test_a_run_goes_on_only_with_the_packages_that_it_began_with(notebook, tmp_path):
    folder = run(notebook(), out=tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    about["environment"]["packages"]["torch"] = "1.0"
    (folder / "run.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=r"this run began with torch 1\.0, now it is "):
        run(notebook(), out=tmp_path / "run")


def test_rows_are_replaced_not_doubled(notebook, tmp_path):
    path = notebook(records=True)
    folder = run(path, notebook(name="other", records=True), out=tmp_path / "run")
    (folder / "finished" / "tiny.json").unlink()
    run(path, out=tmp_path / "run")
    rows = [json.loads(line)["study"] for line in (folder / "results.jsonl").read_text().splitlines()]
    assert sorted(rows) == ["other", "tiny"] == sorted(read_results(folder)["study"])


def test_stored_outputs_do_not_count_as_source(notebook, tmp_path):
    path = notebook()
    folder = run(path, out=tmp_path / "run")
    before = finished(folder)["started"]
    shutil.copy(folder / "notebooks" / "tiny.ipynb", path)
    run(path, out=tmp_path / "run")
    assert finished(folder)["started"] == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": [("n", "3")]}, "has tiny with n = 2, now it is 3"),
        ({"profile": "lab.yaml"}, "has tiny with n = 2, now it is 9"),
    ],
)
def test_run_folder_of_another_configuration_is_refused(notebook, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    Path("lab.yaml").write_text("tiny: {n: 9}")
    path = notebook()
    folder = run(path, out=tmp_path / "run")
    held = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=message):
        run(path, out=tmp_path / "run", **options)
    assert held == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_run_folder_keeps_to_one_profile(notebook, tmp_path):
    run(notebook(), out=tmp_path / "run")
    (tmp_path / "lab.yaml").write_text("")
    with pytest.raises(InputError, match="has profile 'mini', now it is 'lab'"):
        run(notebook(name="other"), out=tmp_path / "run", profile=str(tmp_path / "lab.yaml"))


def test_folder_that_is_no_run_is_refused(notebook, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"holds 'thesis.tex' and no run.json"):
        run(notebook(), out=tmp_path / "mine")
    with pytest.raises(InputError, match="is a file"):
        run(notebook(), out=tmp_path / "mine" / "thesis.tex")


def test_two_processes_do_not_share_a_run_folder(notebook, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked(), pytest.raises(InputError, match="another run is writing here"):
        run(notebook(), out=tmp_path / "run")


def test_default_folders_never_collide(tmp_path, monkeypatch):
    monkeypatch.setattr("synreal.book.run.repository_root", lambda: tmp_path)
    paths = []
    for _ in range(3):
        paths.append(default_run_path("some/quick.yaml"))
        paths[-1].mkdir(parents=True)
    assert len(set(paths)) == 3
    assert all(p.parent == tmp_path / "_build" / "runs" and p.name.startswith("quick-20") for p in paths)


def test_failing_cell_is_named_and_can_be_opened(notebook, tmp_path):
    lines = "\n".join(["x = 1", "y = 0", "z = 2", "x / y"])
    path = notebook("print('fine')", lines, "print('never')")
    with pytest.raises(CellFailed) as caught:
        run(notebook(name="before"), path, out=tmp_path / "run", given=[("n", "3")])
    message = str(caught.value)
    assert "tiny, cell 4 of 5 failed" in message and "ZeroDivisionError: division by zero" in message
    assert "    x = 1\n    y = 0\n    z = 2\n    ...\n" in message
    partial = tmp_path / "run" / "partial" / "tiny.ipynb"
    assert str(partial) in message and "fine" in partial.read_text() and "never\\n" not in partial.read_text()
    assert not (tmp_path / "run" / "notebooks" / "tiny.ipynb").exists()
    assert finished(tmp_path / "run", "before")["notebook"] == "before"


def test_rows_of_a_failed_notebook_are_set_aside(notebook, tmp_path):
    with pytest.raises(CellFailed):
        run(notebook("1 / 0", records=True), out=tmp_path / "run")
    assert (tmp_path / "run" / "results.jsonl").read_text() == "" and read_results(tmp_path / "run").empty
    aside = (tmp_path / "run" / "partial" / "tiny.jsonl").read_text()
    assert json.loads(aside)["metric"] == "n"


def test_death_of_the_kernel_is_a_failure_of_its_cell(notebook, tmp_path):
    path = notebook("print('fine')", "import os\nos._exit(9)", "print('never')")
    with pytest.raises(CellFailed, match="cell 4 of 5 failed(.|\n)*os._exit(.|\n)*kernel died"):
        run(path, out=tmp_path / "run")


def wait_for(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the run did not get that far"
        time.sleep(0.05)


def test_run_killed_in_a_cell_goes_on(notebook, tmp_path):
    go = tmp_path / "go"
    wait = (
        f"import time\nfrom pathlib import Path\nwhile not Path({str(go)!r}).exists():\n    time.sleep(0.05)"
    )
    quick, slow, out = notebook(records=True), notebook(wait, name="slow", records=True), tmp_path / "run"
    command = [sys.executable, "-m", "synreal", "run", str(quick), str(slow), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        rows = out / "results" / "slow.jsonl"
        wait_for(lambda: rows.exists() and rows.read_text().endswith("\n"))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    first = finished(out)
    assert not (out / "finished" / "slow.json").exists()
    go.touch()
    run(quick, slow, out=out)
    assert finished(out) == first and finished(out, "slow")["notebook"] == "slow"
    assert sorted(read_results(out)["study"]) == ["slow", "tiny"]


def test_run_killed_before_it_described_itself_goes_on(notebook, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".run.json.123").write_text('{"half')
    assert text_of(run(notebook(), out=tmp_path / "run")) == "2 0.5 ['a']\n"


def test_notebooks_are_found_by_name_or_path(notebook, tmp_path, monkeypatch):
    book = {"01_world": tmp_path / "01_world.ipynb", "02_classifiers": tmp_path / "02_classifiers.ipynb"}
    monkeypatch.setattr(runs, "book_notebooks", lambda: book)
    monkeypatch.chdir(tmp_path)  # so that the book's own notebooks are not found by their path
    assert find_notebooks(["02_classifiers", "notebooks/01_world.ipynb"]) == list(book.values())[::-1]
    assert find_notebooks([], everything=True) == list(book.values())
    assert find_notebooks([str(notebook())]) == [tmp_path / "tiny.ipynb"]
    for names, message in [
        (["00_wrold"], "unknown notebook '00_wrold'; did you mean '01_world'"),
        (["absent.ipynb"], "absent.ipynb: no such notebook"),
        (["01_world", "01_world"], "named 2 times"),
        ([], "say --all"),
    ]:
        with pytest.raises(InputError, match=message):
            find_notebooks(names)
    with pytest.raises(InputError, match="one of the two"):
        find_notebooks(["01_world"], everything=True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"created": 1}', "\x00"])
def test_a_damaged_record_is_named(tmp_path, text):
    folder = RunFolder(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run.json: damaged .* delete this file"):
        folder.described()

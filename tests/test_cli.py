"""The command line: exit status, messages without traceback, and help that answers at once."""

import subprocess
import sys

import pytest

from synreal import cli
from synreal.book import listing, profiles
from synreal.errors import InputError


@pytest.fixture
def synreal(monkeypatch, capsys):
    """Runs the command in this process; returns (exit status, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["synreal", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        shown = capsys.readouterr()
        return stop.value.code or 0, shown.out, shown.err

    return call


def test_pairs_of_words_reach_p():
    given = ["nb", "-p", "sizes", "[1, 2]", "--parameter", "low", "-1", "-p", "a=b", "--all"]
    joined = ["nb", "-p", "sizes=[1, 2]", "--parameter", "low=-1", "-p", "a=b", "--all"]
    assert cli.join_pairs(given) == joined
    assert cli.split_pair("prompt=a = b") == ("prompt", "a = b")
    for text in ("seed", "=3"):
        with pytest.raises(InputError, match="expected a name and a value"):
            cli.split_pair(text)


def test_run_prints_the_run_folder(synreal, notebook, tmp_path):
    status, out, _ = synreal(
        "run", notebook(), "-p", "n", 3, "-p", "rate", "-1e-3", "--out", tmp_path / "run"
    )
    assert (status, out) == (0, f"{tmp_path / 'run'}\n")
    assert "3 -0.001 ['a']" in (tmp_path / "run" / "notebooks" / "tiny.ipynb").read_text()


def test_failed_cell_is_status_1_with_its_place(synreal, notebook, tmp_path):
    status, out, err = synreal("run", notebook("1 / 0"), "--out", tmp_path / "run")
    assert (status, out) == (1, "")
    assert "tiny, cell 3 of 3 failed:\n\n    1 / 0\n\nZeroDivisionError: division by zero" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-p", "nn", "3"], "did you mean 'n'"),
        (["-p", "n", "x"], "expected int"),
        (["-p", "n"], "expected a name and a value"),
        (["--profile", "quik"], "did you mean 'quick'"),
        (["--all"], "one of the two"),
        (["absent.ipynb"], "no such notebook"),
        (["--zoom"], "No such option"),
    ],
)
def test_bad_input_is_status_2_without_traceback(synreal, notebook, tmp_path, options, message):
    status, out, err = synreal("run", notebook(), *options, "--out", tmp_path / "run")
    assert (status, out) == (2, "") and message in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_run_folder_of_another_configuration_is_status_2(synreal, notebook, tmp_path):
    assert synreal("run", notebook(), "--out", tmp_path / "run")[0] == 0
    status, _, err = synreal("run", notebook(), "-p", "n", "3", "--out", tmp_path / "run")
    assert status == 2 and "n = 2, now it is 3" in err


def test_list_shows_parameters_and_profiles(synreal, notebook, monkeypatch):
    monkeypatch.setattr(listing, "book_notebooks", lambda: {"tiny": notebook()})
    status, out, _ = synreal("list")
    assert status == 0 and out.startswith("tiny: Title of tiny\n")
    assert "  n: int = 2 " in out and "images; cost grows = linearly" in out
    assert all(f"\n  {name} " in out for name in profiles.book_profiles())


def test_module_and_help_answer_without_heavy_imports():
    code = "import sys; sys.argv = ['synreal', '--help']\nfrom synreal.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'papermill', 'pandas', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "run" in done.stdout and done.stdout.endswith("[]\n")
    assert subprocess.run([sys.executable, "-m", "synreal", "--help"], capture_output=True).returncode == 0

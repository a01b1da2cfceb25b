"""The command line: exit status, messages without traceback, and help that answers at once."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from synreal import cli
from synreal.book import parameters
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
    monkeypatch.setattr(parameters, "book_notebooks", lambda: {"tiny": notebook()})
    status, out, _ = synreal("list")
    assert status == 0 and out.startswith("tiny: Title of tiny\n")
    assert "  n: int = 2 " in out and "images; cost grows = linearly" in out
    assert all(f"\n  {name} " in out for name in parameters.book_profiles())


def test_module_and_help_answer_without_heavy_imports():
    code = "import sys; sys.argv = ['synreal', '--help']\nfrom synreal.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'papermill', 'pandas', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "run" in done.stdout and done.stdout.endswith("[]\n")
    assert subprocess.run([sys.executable, "-m", "synreal", "--help"], capture_output=True).returncode == 0


# --- synbench ---

TINY = {
    "reg_max": 4,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[1], 1, "Detect", ["nc"]]],
}


@pytest.fixture
def generated(tmp_path, monkeypatch):
    """A folder of 60 scenes as PNGs in class subfolders, and one of a tiny random detector."""
    from synreal.data.scenes import scene_set
    from synreal.models.yolo import DetectorCard, build_detector, save_detector

    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    scenes = scene_set("val", 60, seed=1)
    names = scenes.features["label"].names
    for row in scenes:
        (tmp_path / "images" / names[row["label"]]).mkdir(parents=True, exist_ok=True)
        row["image"].save(tmp_path / "images" / names[row["label"]] / f"{row['id']}.png")
    card = DetectorCard(name="tiny", architecture=TINY, class_names=("garment", "person"), image_size=32)
    save_detector(tmp_path / "detector", build_detector(card), card)
    return tmp_path


def benched(folder, *options):
    place = f"mine={folder / 'images'}"
    given = ["synbench", "--real", "scenes/test", "--images", "60", "--synthetic", place]
    return [*given, "--draws", "50", "--out", folder / "report", *options]


def test_synbench_measures_a_folder_beside_scenes(synreal, generated):
    limits = generated / "limits.yaml"
    limits.write_text("brightness/mean_difference: {min: -100, max: 100}\n")
    options = ["--judge", "Judge", "--detector", generated / "detector", "--thresholds", limits]
    status, out, _ = synreal(*benched(generated, *options))
    page = generated / "report" / "index.html"
    verdict, shown = out.splitlines()
    assert (status, shown) == (0, str(page))
    assert verdict.startswith("pass: brightness/mean_difference of mine is ")
    assert verdict.endswith(", expected at least -100 and at most 100")
    text = page.read_text()
    for heading in ("consistency (0", "object scale (share", "brightness (L*", "person blocking (0"):
        assert f"<h2>{heading}" in text


def test_synbench_is_status_1_when_a_threshold_or_a_measure_fails(synreal, generated, monkeypatch):
    from synreal.synbench.measures import Brightness

    limits = generated / "limits.yaml"
    limits.write_text("brightness/mean_synthetic: {max: 1}\n")
    status, out, err = synreal(*benched(generated, "--thresholds", limits))
    assert (status, err) == (1, "") and out.startswith("fail: brightness/mean_synthetic of mine")

    def fail(measure, images):
        raise MemoryError("no more")

    monkeypatch.setattr(Brightness, "values", fail)
    monkeypatch.setenv("SYNREAL_CACHE", str(generated / "other"))
    status, _, err = synreal(*benched(generated))
    assert status == 1 and "brightness of mine failed: MemoryError: no more" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--synthetic", "images"], "expected a name and a place"),
        (["--synthetic", "mine=scenes/val"], "the names ['mine'] are taken"),
        (["--synthetic", "b=nowhere"], "nowhere: no such file or folder"),
        (["--thresholds", "absent.yaml"], "absent.yaml: no such file"),
        (["--judge", "absent"], "absent"),
        (["--hierarchy", "absent.yaml"], "absent.yaml: no such file"),
        (["--unreadable", "mend"], "'mend' is not one of"),
        (["--vlm", "gpt@http://localhost"], "name persons or a detector"),
        (["--restricted"], "restricted: found no judge"),
        (["--seed", "-1"], "--seed: found -1, expected 0 or more"),
        (["--seed", str(2**32)], "below 2**32"),
        (["--images", "-5"], "--images: found -5, expected 1 or more"),
        (["--draws", "0"], "--draws: found 0, expected 1 or more"),
    ],
)
def test_synbench_refuses_bad_input_before_measuring(synreal, generated, options, message):
    status, out, err = synreal(*benched(generated, *options))
    assert (status, out) == (2, "") and message in err and "Traceback" not in err
    assert not (generated / "report").exists()


def test_synbench_stops_at_images_that_cannot_be_decoded_or_drops_them(synreal, generated):
    broken = next((generated / "images" / "bag").iterdir())
    broken.write_bytes(broken.read_bytes()[:100])
    status, _, err = synreal(*benched(generated))
    assert status == 2 and f"the first is bag/{broken.name}" in err
    with pytest.warns(UserWarning, match="1 unreadable images were dropped"):
        status, _, _ = synreal(*benched(generated, "--unreadable", "drop"))
    assert status == 0 and "59 of mine" in (generated / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("seed: found -1"), 2, "synreal: seed: found -1"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/run/x"),
            2,
            "synreal: /run/x: No space left on device",
        ),
        (OSError(errno.EIO, "Input/output error"), 70, "unexpected OSError"),
        (KeyError("x"), 70, "synreal: unexpected KeyError: 'x'"),
    ],
)
def test_a_crash_is_never_taken_for_a_verdict(monkeypatch, capsys, error, status, said):
    def fail():
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    told = capsys.readouterr().err
    assert stopped.value.code == status and said in told and "Traceback" not in told
    if status == 70:
        assert "Traceback" in Path(told.split("The log: ")[1].strip()).read_text()

"""`synreal tune` launched as two real processes, as on two GPUs: gloo on the CPU in their place."""

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from synreal.models import load_classifier

STEPS = 300  # so many that a process can be killed after the first state, kept after 50
LIMIT = 100.0  # seconds, of any launch


@pytest.fixture
def launch(tiny_vit, tmp_path, monkeypatch):
    """Starts the command on a folder as two processes, which end with the test."""
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = []

    def start(out, *options):
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "synreal", "tune"]
        given = ["--checkpoint", tiny_vit, "--images", "scenes/train", "--count", "40", "--out", out]
        command = [sys.executable, "-m", *launcher, *given, "--steps", STEPS, *options]
        process = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()


def finished(process):
    """(exit status, standard output, standard error) of a launch."""
    out, error = process.communicate(timeout=LIMIT)
    return process.returncode, out, error


def kill_second(process, once: Path):
    """Ends the second process without notice as soon as a file is there."""
    end = time.monotonic() + LIMIT
    while not once.exists():
        assert process.poll() is None and time.monotonic() < end, "no state was kept"
        time.sleep(0.01)
    ranks = {child.environ().get("RANK"): child for child in psutil.Process(process.pid).children()}
    ranks["1"].kill()


def test_a_killed_launch_goes_on_to_the_identical_checkpoint(launch, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    status, out, error = finished(launch(whole))
    assert (status, out) == (0, f"{whole / 'report.md'}\n"), error
    assert error.count(f" 0/{STEPS} [00:00<?") == 1  # one bar, as it begins
    assert load_classifier(whole).card.training["images"] == 40

    killed = launch(broken)
    kill_second(killed, broken / "work" / "state.pt")
    assert finished(killed)[0] != 0
    assert [file.name for file in broken.iterdir()] == ["work"]
    status, out, error = finished(launch(broken))
    assert (status, out) == (0, f"{broken / 'report.md'}\n"), error
    assert f"{STEPS}/{STEPS}" not in error  # it did not begin anew
    assert {file.name for file in broken.iterdir()} == {file.name for file in whole.iterdir()}
    for name in ("model.safetensors", "losses.csv", "curve.csv", "training.csv"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert pd.read_csv(broken / "losses.csv")["step"].tolist() == list(range(1, STEPS + 1))


def test_bad_input_is_said_once_and_ends_every_process(launch, tmp_path):
    status, out, error = finished(launch(tmp_path / "out", "--learning-rate", "-1"))
    assert status != 0 and out == "" and not (tmp_path / "out").exists()
    assert error.count("synreal: learning_rate: found -1.0, expected a number above 0") == 1

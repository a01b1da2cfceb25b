"""Detectors on disk: our own format, published pickles, YOLO-World's vocabulary, refusals."""

import pickle

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image, UnidentifiedImageError
from safetensors.torch import load_file

from synreal.errors import InputError
from synreal.models import build_module, save_checkpoint, yolo
from synreal.models.card import Card

TINY = {
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[[1], 1, "Detect", ["nc"]]],
}
WORLD = TINY | {"head": [[1, 1, "C2fAttn", [16, 16, 1]], [[2], 1, "WorldDetect", ["nc", 512, True]]]}
CARD = yolo.DetectorCard(name="tiny", architecture=TINY, class_names=("bag", "coat", "person"), image_size=32)
PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def scores(module):
    with torch.no_grad():
        return module(PIXELS)[0]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Saves a checkpoint, as ultralytics publishes them, in the folder of published weights."""
    monkeypatch.setenv(yolo.WEIGHTS_ENV, str(tmp_path))

    def save(name, module, **more):
        content = {"epoch": -1, "ema": None, "model": module.half(), "train_args": {"imgsz": 640}} | more
        torch.save(content, tmp_path / name)
        return module.float()

    return save


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, random_weights):
    """A CLIP checkpoint with embeddings as wide as YOLO-World's."""
    update = {
        "weights": "model.safetensors", "weights_env": None, "image_size": 32, "resize": 32,
        "architecture_args": {
            "embed_dim": 512,
            "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        },
    }  # fmt: skip
    card = yolo.TEXT_ENCODER.model_copy(update=update)
    return save_checkpoint(tmp_path_factory.mktemp("clip"), random_weights(build_module(card)), card)


def test_ultralytics_is_offline_quiet_and_unpickles_known_classes_only():
    from ultralytics.utils import AUTOINSTALL, ONLINE, SAFE_LOAD, SETTINGS

    assert (ONLINE, AUTOINSTALL, SETTINGS["sync"], SAFE_LOAD) == (False, False, False, True)


def test_importing_it_changes_nothing_for_others(tmp_path):
    assert "ultralytics" not in Image.open.__module__
    assert "ultralytics" not in torch.save.__module__
    assert np.get_printoptions()["formatter"] is None
    (tmp_path / "noise.png").write_bytes(b"no image")
    with pytest.raises(UnidentifiedImageError):
        Image.open(tmp_path / "noise.png")


def test_our_format_gives_back_the_network(tmp_path, random_weights):
    module = random_weights(yolo.build_detector(CARD))
    written = yolo.save_detector(tmp_path, module, CARD)
    loaded, card = yolo.load_detector_module(tmp_path)
    assert card == written
    assert loaded.names == {0: "bag", 1: "coat", 2: "person"}
    assert not loaded.training
    kinds = {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()}
    assert kinds == {torch.float16, torch.int64}  # batch norm counts its batches
    torch.testing.assert_close(scores(loaded), scores(module), rtol=1e-2, atol=0.1)
    assert scores(loaded)[:, 4:].std() > 0.01


def test_files_that_are_missing_or_do_not_fit_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no detector.yaml; expected a folder written by save_detector"):
        yolo.load_detector_module(tmp_path)
    card = yolo.save_detector(tmp_path, yolo.build_detector(CARD), CARD)
    file = tmp_path / "detector.yaml"
    for change, message in (
        ({"sha256": "0" * 64}, "sha256 is .* detector.yaml says 000"),
        ({"class_names": ["bag"]}, "(?s)does not fit the architecture .*size mismatch"),
        ({"colour": "red"}, "(?s)not a detector's card: .*colour"),
        ({"architecture": TINY | {"head": [[[1], 1, "NoSuchLayer", []]]}}, "cannot build this architecture"),
    ):
        file.write_text(yaml.safe_dump(card.model_dump(mode="json") | change))
        with pytest.raises(InputError, match=message):
            yolo.load_detector_module(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no model.safetensors"):
        yolo.load_detector_module(tmp_path)


def test_weights_that_diverged_are_not_saved(tmp_path):
    module = yolo.build_detector(CARD)
    module.model[0].conv.weight.data[:] = 1e6
    with pytest.raises(InputError, match="model.0.conv.weight.*: not all finite in float16"):
        yolo.save_detector(tmp_path, module, CARD)


def test_published_detectors_load_from_their_pickles(published, random_weights):
    module = published("yolov5su.pt", random_weights(yolo.build_detector(CARD)))
    loaded = yolo.load_published("yolov5su.pt")
    assert loaded.names == module.names
    torch.testing.assert_close(scores(loaded), scores(module))


def test_a_pickle_of_anything_else_is_refused_and_not_run(published, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    published("yolov5su.pt", yolo.build_detector(CARD), extra=Trap())
    with pytest.raises(InputError, match="refused. Expected a detector saved by ultralytics 8"):
        yolo.load_published("yolov5su.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(InputError, match="refused"):
        yolo.load_published("old.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_file_without_a_detector_is_refused(published, tmp_path):
    published("yolov5su.pt", torch.nn.Conv2d(3, 8, 3))
    with pytest.raises(InputError, match="holds Conv2d, expected a detection model of ultralytics"):
        yolo.load_published("yolov5su.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "yolov5su.pt").read_bytes()[:500])
    with pytest.raises(InputError, match=r"cut.pt: refused"):
        yolo.load_published("cut.pt")


def test_what_one_file_may_hold_no_later_file_may(published, tmp_path):
    before = set(torch.serialization.get_safe_globals())
    published("yolov5su.pt", yolo.build_detector(CARD))
    yolo.load_published("yolov5su.pt")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "yolov5su.pt", weights_only=True)


def test_missing_weights_say_what_to_put_where(monkeypatch, tmp_path, world):
    monkeypatch.delenv(yolo.WEIGHTS_ENV, raising=False)
    with pytest.raises(InputError, match="set the environment variable SYNREAL_DETECTOR_DIR to the folder"):
        yolo.load_published("yolov5su.pt")
    monkeypatch.setenv(yolo.WEIGHTS_ENV, str(tmp_path))
    with pytest.raises(InputError, match="yolov5su.pt: not in .* put it there. It is published at https://"):
        yolo.load_published("yolov5su.pt")
    with pytest.raises(
        InputError, match="no weights file clip-vit-b-32.safetensors in .*published at https://"
    ):
        yolo.set_vocabulary(world(), ["hen"])


@pytest.fixture
def world(random_weights):
    """Makes YOLO-World, small and untrained."""
    return lambda: random_weights(yolo.WorldModel(WORLD | {"nc": 3}, nc=3, verbose=False))


@torch.no_grad()
def test_yolo_world_looks_for_the_classes_it_is_given(encoder, published, world):
    published("yolov8s-worldv2.pt", world())
    module = yolo.load_published("yolov8s-worldv2.pt")
    yolo.set_vocabulary(module, ["hen", "rooster", "person", "house"], encoder)
    assert module.names == {0: "hen", 1: "rooster", 2: "person", 3: "house"}
    assert scores(module).shape[1] == 4 + 4
    clip = build_module(encoder)
    clip.load_state_dict(load_file(encoder.file.parent / "model.safetensors"))
    texts = open_clip.get_tokenizer("ViT-B-32")(["hen", "rooster", "person", "house"])
    torch.testing.assert_close(module.txt_feats[0], F.normalize(clip.eval().encode_text(texts), dim=-1))
    hen_first = scores(module)
    yolo.set_vocabulary(module, ["rooster", "hen"], encoder)
    assert scores(module).shape[1] == 4 + 2
    assert (scores(module)[:, 5] - scores(module)[:, 4]).abs().max() > 1e-4
    assert hen_first.isfinite().all()


def test_a_vocabulary_needs_yolo_world_and_different_names(encoder, world):
    with pytest.raises(InputError, match="found DetectionModel, expected a YOLO-World network"):
        yolo.set_vocabulary(yolo.build_detector(CARD), ["hen"], encoder)
    for names in ([], ["hen", "hen"]):
        with pytest.raises(InputError, match="expected different names, at least one"):
            yolo.set_vocabulary(world(), names, encoder)


def test_the_text_encoder_is_a_card_like_any_other():
    assert isinstance(yolo.TEXT_ENCODER, Card)
    assert open_clip.get_model_config(yolo.TEXT_ENCODER.architecture)["embed_dim"] == 512

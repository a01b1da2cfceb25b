"""The world of photographs: fetched or taken from files at hand, known by its pixels, split by hash."""

import http.server
import io
import tarfile
import threading

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synreal.data import photos
from synreal.data.imageset import class_names, kind_of
from synreal.data.photos import CLASSES, download, get_photos, open_photos
from synreal.data.worlds import open_world
from synreal.errors import InputError


def jpeg(seed):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
        file, "JPEG"
    )
    return file.getvalue()


def table(place, prefix, first):
    rows = [
        {
            "image": jpeg(first + n),
            "label": n % 10,
            "class_name": CLASSES[n % 10],
            "path": f"{prefix}/{n:04d}.jpg",
        }
        for n in range(40)
    ]
    place.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(place)


def fakes():
    """File names as CIFAKE has them, and contents; two have the same pixels."""
    names = ["", *(f" ({n})" for n in range(2, 11))]
    files = [
        (f"train/FAKE/{1000 + n}{name}.jpg", jpeg(500 + 10 * n + k))
        for n in range(3)
        for k, name in enumerate(names)
    ]
    return [*files, ("train/FAKE/1003.jpg", files[0][1])]


@pytest.fixture
def at_hand(tmp_path, monkeypatch):
    """A folder with tiny files in the published layouts; their pixels are the version that is expected."""
    source = tmp_path / "source"
    table(source / "cifar10" / "train.parquet", "train", 0)
    table(source / "cifar10" / "test.parquet", "test", 100)
    pd.DataFrame({"text": ["no images"]}).to_parquet(source / "aaa-test.parquet")
    for name, content in fakes():
        (source / "repository" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "repository" / name).write_bytes(content)
    monkeypatch.setenv("SYNREAL_PHOTOS", str(tmp_path / "photos"))
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    found = {}
    monkeypatch.setattr(photos, "check_version", lambda made, part: found.update({part: made}))
    get_photos(tmp_path / "first", source)
    monkeypatch.undo()
    monkeypatch.setenv("SYNREAL_PHOTOS", str(tmp_path / "photos"))
    monkeypatch.setenv("SYNREAL_CACHE", str(tmp_path / "cache"))
    known = {
        part: {"images": len(made), "classes": photos.class_hashes(made)} for part, made in found.items()
    }
    monkeypatch.setattr(photos, "reference", lambda: known)
    return source


def test_files_at_hand_become_the_world(at_hand, tmp_path):
    assert get_photos(source=at_hand) == tmp_path / "photos"
    real, test, synthetic = (open_photos(part) for part in ("real", "test", "synthetic"))
    assert [len(real), len(test), len(synthetic)] == [40, 40, 30]  # one of 31 has the pixels of another
    assert (
        class_names(real) == list(CLASSES) and kind_of(real) == "real" and kind_of(synthetic) == "synthetic"
    )
    by_id = dict(zip(synthetic["id"][:], synthetic["label"][:], strict=True))
    assert by_id["train/FAKE/1000.jpg"] == 0 and by_id["train/FAKE/1000 (2).jpg"] == 1
    assert by_id["train/FAKE/1002 (10).jpg"] == 9


def test_the_test_images_fall_into_two_halves_by_their_pixels(at_hand):
    get_photos(source=at_hand)
    a, b = (set(open_photos(part)["id"][:]) for part in ("test-A", "test-B"))
    assert not a & b and a | b == set(open_photos("test")["id"][:]) and min(len(a), len(b)) > 10


def test_the_archive_of_the_repository_gives_the_same_images(at_hand, tmp_path):
    archive = tmp_path / "other" / "cifake.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(at_hand / "repository", "CIFAKE-main")
    (at_hand / "cifar10").rename(tmp_path / "other" / "cifar10")
    get_photos(source=tmp_path / "other")
    assert len(open_photos("synthetic")) == 30


def test_cifar10_of_torchvision_is_encoded_like_the_rest(at_hand, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    rows = list(photos._of_arrays(pixels, [n % 10 for n in range(20)], "train"))
    assert [row["id"] for row in rows[:2]] == ["train/00000", "train/00001"]
    tables = [Image.open(io.BytesIO(row)).quantization for row in (rows[0]["image"], jpeg(0))]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("change", ["missing", "another"])
def test_another_version_is_refused(at_hand, change):
    file = at_hand / "repository" / "train" / "FAKE" / "1002 (4).jpg"
    file.unlink() if change == "missing" else file.write_bytes(jpeg(9999))
    with pytest.raises(InputError, match=r"synthetic: the images of \['cat'\] are of another version"):
        get_photos(source=at_hand)


def test_what_is_missing_is_said_with_what_to_do(at_hand, tmp_path):
    with pytest.raises(InputError, match="fetch it with `synreal get photos`"):
        open_photos("real")
    with pytest.raises(InputError, match=r"expected photos/ and one of"):
        open_photos("reel")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found neither cifar-10-batches-py/ nor train.parquet"):
        get_photos(source=tmp_path / "empty")


def test_a_world_of_photographs_has_groups_and_pairs(at_hand):
    get_photos(source=at_hand)
    world = open_world("photos/test-B")
    assert world.name == "photos/test-B" and set(world.hierarchy.groups) == {"animals", "vehicles"}
    assert open_world("photos/test", hierarchy="photos/pairs").hierarchy.groups["cat or dog"] == (
        "cat",
        "dog",
    )


@pytest.fixture
def server(tmp_path):
    """A server of one file of 3,000 bytes that sends 1,000 of them at most."""
    content = np.random.default_rng(0).bytes(3000)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-").split("=")[1].rstrip("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : start + 1000])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}/x", content
        http_server.shutdown()


def test_an_interrupted_download_goes_on(server, tmp_path):
    url, content = server
    for _ in range(2):
        with pytest.raises(InputError, match="the same command goes on where it stopped"):
            download(url, tmp_path / "x")
    assert download(url, tmp_path / "x").read_bytes() == content
    assert download("http://127.0.0.1:1/", tmp_path / "x").read_bytes() == content  # it is there


def test_without_a_network_the_message_says_what_to_put_where(tmp_path):
    with pytest.raises(InputError, match="put it into a folder, and say --from FOLDER"):
        download("http://127.0.0.1:1/x", tmp_path / "x")

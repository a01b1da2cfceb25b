"""Cards: what they hold, how they are found, and what is refused."""

import pytest
import yaml
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from pydantic import ValidationError

from synreal.errors import InputError
from synreal.models import Card, imagenet_class_names, list_cards, load_card, openai_templates
from synreal.models.card import openai_prompt_names

FIELDS = {
    "name": "tiny", "role": "ViT-Real-1k", "library": "timm", "architecture": "vit_tiny_patch16_224",
    "activation": "gelu", "weights": "model.safetensors", "image_size": 32, "resize": 32, "crop": "none",
    "interpolation": "bilinear", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "head": "linear",
    "class_names": ["coat", "bag"], "license": "MIT",
}  # fmt: skip


def write_card(folder, **changes):
    fields = {name: value for name, value in (FIELDS | changes).items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "card.yaml"
    file.write_text(yaml.safe_dump(fields))
    return file


def test_a_card_reads_back_as_written(tmp_path):
    card = load_card(write_card(tmp_path, training={"source": "real", "images": 1000}))
    (tmp_path / "again.yaml").write_text(card.to_yaml())
    assert load_card(tmp_path / "again.yaml").model_dump() == card.model_dump()
    assert card.class_names == ("coat", "bag")
    assert card.training["images"] == 1000


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_sise": 32}, r"field image_sise: Extra inputs are not permitted \(found 32\)"),
        ({"image_size": "32"}, r"field image_size: .*valid integer \(found '32'\)"),
        ({"mean": [0.5, 0.5]}, r"field mean.*"),
        ({"std": [0.5, 0.0, 0.5]}, r"field std: .*above 0"),
        ({"activation": "GELU"}, r"field activation: .*'gelu'.* \(found 'GELU'\)"),
        ({"license": None}, r"field license: Field required"),
        ({"sha256": "abc"}, r"field sha256: .*pattern"),
        ({"class_names": ["coat", "coat"]}, r"field class_names: .*given twice: coat"),
        ({"class_names": ["coat", False]}, r"field class_names.1: .*valid string \(found False\)"),
        ({"resize": 40}, r"crop none needs resize equal to image_size 32, found 40"),
        ({"crop": "centre", "resize": 28}, r"resize 28 is below image_size 32"),
        ({"head": "zero-shot"}, r"head zero-shot does not go with timm"),
        ({"templates": ["a photo of a {}"]}, r"templates are needed by a zero-shot head"),
        ({"templates": ["a photo"]}, r"holds \{\} once; found 'a photo'"),
        ({"prompt_names": {"trouser": "trousers"}}, r"not in class_names: trouser"),
        ({"expected": [{"image_set": "x", "metric": "accuracy", "value": 1.0, "tolerance": 0.1}]},
         r"field expected.0.n: Field required"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_its_file(tmp_path, changes, reason):
    file = write_card(tmp_path, **changes)
    with pytest.raises(InputError, match=reason) as error:
        load_card(file)
    assert str(error.value).startswith(str(file))


def test_text_that_is_no_card_is_refused(tmp_path):
    file = tmp_path / "card.yaml"
    file.write_text("name: [")
    with pytest.raises(InputError, match="not valid YAML"):
        load_card(file)
    file.write_bytes("name: caf\u00e9".encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read as YAML in UTF-8"):
        load_card(file)
    file.write_text("just words")
    with pytest.raises(InputError, match=r"field card: .*found 'just words'"):
        load_card(file)


def test_a_card_cannot_be_changed(tmp_path):
    card = load_card(write_card(tmp_path))
    with pytest.raises(ValidationError, match="frozen"):
        card.image_size = 64


def test_cards_are_found_by_name_folder_and_file(tmp_path, monkeypatch):
    file = write_card(tmp_path / "tiny")
    monkeypatch.setenv("SYNREAL_ZOO", str(tmp_path))
    assert load_card("tiny") == load_card(file) == load_card(tmp_path / "tiny")
    assert list_cards()["tiny"] == file
    assert load_card("tiny").file == file.resolve()


def test_an_unknown_name_lists_what_there_is(tmp_path, monkeypatch):
    write_card(tmp_path / "tiny")
    monkeypatch.setenv("SYNREAL_ZOO", str(tmp_path))
    with pytest.raises(InputError, match=r"no card named 'tinny'.*ViT-Real-1M.*tiny"):
        load_card("tinny")
    with pytest.raises(InputError, match=r"nowhere.yaml: no such card"):
        load_card(tmp_path / "nowhere.yaml")


def test_prompts_use_openais_names_for_every_imagenet_class():
    words = [openai_prompt_names().get(name, name) for name in imagenet_class_names()]
    assert words == list(IMAGENET_CLASSNAMES)
    assert [words[label] for label in (0, 97, 657, 744, 836, 837)] == [
        "tench", "duck", "missile", "missile", "sunglasses", "sunglasses",
    ]  # fmt: skip


def test_the_eighty_templates_have_one_gap_each():
    templates = openai_templates()
    assert len(set(templates)) == 80
    assert templates[0] == "a bad photo of a {}."
    assert all(template.format("dog").count("dog") == 1 for template in templates)


def test_named_lists_stay_names_when_written(tmp_path):
    file = write_card(tmp_path, class_names="imagenet-1k")
    assert len(load_card(file).class_names) == 1000
    assert yaml.safe_load(load_card(file).to_yaml())["class_names"] == "imagenet-1k"
    clip = yaml.safe_load(load_card("CLIP-Syn-371M").to_yaml())
    assert [clip[field] for field in ("templates", "prompt_names")] == ["openai-80", "openai-1k"]


def test_a_card_made_in_python_is_checked_too():
    with pytest.raises(ValidationError, match="resize"):
        Card(**(FIELDS | {"resize": 64}))

"""What chapter 2 is asked for is checked before anything is computed; the pairs of the paper are known."""

import pytest
import yaml

from synreal.book import paper_table, paper_value
from synreal.data.sprites import CLASS_NAMES
from synreal.errors import InputError
from synreal.models import Card, list_cards
from synreal.models.card import read_pairs
from synreal.paths import repository_root


def card(name: str, role: str) -> Card:
    return Card(
        name=name, role=role, library="timm", architecture="a", activation="gelu", weights="w.safetensors",
        image_size=32, resize=32, crop="none", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3,
        head="linear", class_names=CLASS_NAMES, license="MIT",
    )  # fmt: skip


def test_checkpoints_are_called_by_role_where_it_is_theirs_alone(tmp_path):
    paths = {}
    for folder, name in {"a/one": "one", "b/one": "one", "two": "two", "three": "three"}.items():
        paths[folder] = str(tmp_path / folder)
        (tmp_path / folder).mkdir(parents=True)
        own = card(name, "mine" if name == "three" else "ViT-Syn tuned")
        (tmp_path / folder / "card.yaml").write_text(own.to_yaml())
    first, second = ([paths["a/one"], paths["two"]], [paths["b/one"], paths["three"]])
    checkpoints, titled = read_pairs({"first": first, "second": second})
    assert checkpoints == {paths["a/one"]: paths["a/one"], "two": paths["two"],
                           paths["b/one"]: paths["b/one"], "mine": paths["three"]}  # fmt: skip
    assert titled == {"first": (paths["a/one"], "two"), "second": (paths["b/one"], "mine")}


@pytest.mark.parametrize("pair", [[], ["one"], ["one", "one"], ["a", "b", "c"], None])
def test_a_pair_is_two_checkpoints(pair):
    pairs = {} if pair is None else {"mine": pair}
    with pytest.raises(InputError, match=r"^pairs: "):
        read_pairs(pairs)


def test_a_checkpoint_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(InputError, match="no card named 'ViT-Rael-12k'; there are: .*ViT-Real-12k"):
        read_pairs({"mine": ["ViT-Rael-12k", "ViT-Syn-12k"]})


def test_profile_paper_compares_what_the_paper_compares():
    profile = yaml.safe_load((repository_root() / "profiles" / "paper.yaml").read_text())
    in_paper = paper_table("P1", "pairs").set_index("pair")
    both = {title: [line["real"], line["synthetic"]] for title, line in in_paper.iterrows()}
    assert profile["02_classifiers"]["pairs"] == both
    assert {name for pair in both.values() for name in pair} <= set(list_cards())


def test_every_pair_of_the_paper_is_in_its_tables():
    for pair in paper_table("P1", "pairs").itertuples():
        for model in (pair.real, pair.synthetic):
            assert 0 < paper_value("P1", "table1", model=model) < 1
            if isinstance(pair.factors, str):
                assert paper_value("P1", pair.factors, column="person_blocking", model=model) < 0

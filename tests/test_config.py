"""Recipes: what their fingerprints count, and what a TOML file may say."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from prag.config import (
    PAPER,
    RECIPES,
    SMALL,
    AugmentConfig,
    GenerateConfig,
    Recipe,
    TrainConfig,
    Wording,
    default_recipe,
    load_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from prag.records import PragError

pytestmark = pytest.mark.fast

SELF, FILE = "self:0123456789abcdef", "file:qa"
OTHER = {
    "style": "spans",
    "sequences": "closed-book",
    "train.style": "hotpotqa",
    "loss": "answer",
    "step": "passage",
    "beta1": 0.5,
    "beta2": 0.5,
    "passage": "{title}: {text}",
    "layers": 0.5,
    "sites": "in",
    "quiet": 30.0,
    "define": True,
    "end": True,
    "precision": "mixed",
}
FIELDS = [
    (section, f.name) for section in ("augment", "train", "wording")
    for f in fields(getattr(PAPER, section))
]  # fmt: skip


def changed(section, name):
    """PAPER with another value of one field."""
    part = getattr(PAPER, section)
    value = OTHER.get(f"{section}.{name}", OTHER.get(name))
    if value is None:
        now = getattr(part, name)
        value = now + " now" if isinstance(now, str) else now * 2 + 1
    assert value != getattr(part, name)
    return replace(PAPER, **{section: replace(part, **{name: value})})


@pytest.mark.parametrize(("section", "name"), FIELDS)
def test_every_field_counts_in_the_fingerprint(section, name):
    assert changed(section, name).fingerprint(SELF) != PAPER.fingerprint(SELF)


def test_adapters_made_by_older_versions_stay_valid():
    """What is pinned here was computed before `layers` was a field."""
    train = TrainConfig(sequences="closed-book", learning_rate=2e-3, epochs=3)
    small = replace(SMALL, train=train, augment=replace(SMALL.augment, style="spans"))
    made = [r.fingerprint(o) for r in (PAPER, small) for o in ("file:x", "self:y")]
    assert made == [
        "59e506375e4398ea",
        "93ae0b5ac0230a45",
        "7e82e61af969fb0a",
        "8ad9a7719073f532",
    ]


def test_no_two_changes_give_one_fingerprint():
    prints = {changed(*f).fingerprint(SELF) for f in FIELDS} | {PAPER.fingerprint(SELF)}
    assert len(prints) == len(FIELDS) + 1
    assert all(len(p) == 16 for p in prints)


@pytest.mark.parametrize(("section", "name"), FIELDS)
def test_of_a_file_only_what_is_used_of_it_counts(section, name):
    """How a file's pairs were made is not known: of the augmentation only the counts matter."""
    counts = section != "augment" or name in ("rewrites", "pairs")
    assert (changed(section, name).fingerprint(FILE) != PAPER.fingerprint(FILE)) == counts


@pytest.mark.parametrize(("section", "name"), FIELDS)
def test_only_augmentation_counts_in_its_own_fingerprint(section, name):
    differs = changed(section, name).augment_fingerprint(SELF) != PAPER.augment_fingerprint(SELF)
    assert differs == (section == "augment")


def test_the_origin_counts_and_name_and_merge_do_not():
    origins = [SELF, "self:another", "endpoint:m", FILE, "file:other"]
    assert len({PAPER.fingerprint(o) for o in origins}) == len(origins)
    assert len({PAPER.augment_fingerprint(o) for o in origins}) == len(origins)
    same = replace(
        PAPER,
        name="mine",
        merge="best",
        beside_text=0.5,
        offered="base",
        combine="surer",
        codec="int8",
    )
    assert same.fingerprint(SELF) == PAPER.fingerprint(SELF)
    assert same.augment_fingerprint(SELF) == PAPER.augment_fingerprint(SELF)


def test_a_whole_number_for_a_float_is_the_same_recipe():
    given = replace(PAPER, train=TrainConfig(alpha=32), augment=AugmentConfig(temperature=1))
    same = replace(PAPER, train=TrainConfig(alpha=32.0), augment=AugmentConfig(temperature=1.0))
    assert given.fingerprint(SELF) == same.fingerprint(SELF)
    assert type(GenerateConfig(temperature=0).temperature) is float


@pytest.mark.parametrize("recipe", RECIPES.values())
def test_a_recipe_survives_its_dictionary(recipe):
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    other = replace(recipe, name="x", merge="best", train=replace(recipe.train, rank=7))
    assert recipe_from_dict(recipe_to_dict(other)) == other


def test_recipes_by_name_and_by_size():
    assert load_recipe("paper") is PAPER
    assert load_recipe("small") is SMALL
    assert default_recipe(999_999_999) is SMALL
    assert default_recipe(1_000_000_000) is PAPER


def test_the_paper_is_the_method():
    """METHOD, 1 and 4."""
    train, augment = PAPER.train, PAPER.augment
    assert (train.rank, train.alpha, train.learning_rate, train.epochs) == (2, 32.0, 3e-4, 1)
    assert (train.beta1, train.beta2, train.epsilon) == (0.9, 0.999, 1e-8)
    assert (train.weight_decay, train.loss, train.sequences) == (0.01, "all", "paper")
    assert (augment.rewrites, augment.pairs, augment.max_new_tokens) == (1, 3, 512)
    assert (augment.temperature, augment.top_k, augment.style) == (0.7, 50, "json")
    assert PAPER.merge == "sum"
    assert (GenerateConfig().max_new_tokens, GenerateConfig().temperature) == (20, 0.0)


def written(folder, text):
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_changes_what_it_names(tmp_path):
    text = 'base = "small"\nmerge = "best"\n[train]\nepochs = 2\nalpha = 16\n[augment]\npairs = 4\n'
    recipe = load_recipe(written(tmp_path, text))
    assert recipe == replace(
        SMALL,
        name="mine",
        merge="best",
        train=replace(SMALL.train, epochs=2, alpha=16.0),
        augment=replace(SMALL.augment, pairs=4),
    )
    assert type(recipe.train.alpha) is float


def test_an_empty_file_is_the_paper_by_another_name(tmp_path):
    assert load_recipe(written(tmp_path, "")) == replace(PAPER, name="mine")
    assert load_recipe(written(tmp_path, 'name = "x"')).name == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nepoch = 2", r"\[train\] has no field 'epoch'; it has .*epochs"),
        ("[training]\nepochs = 2", r"\[recipe\] has no field 'training'; it has .*train"),
        ("train = 3", r"\[train\] is a table of fields, not 3"),
        ("[train]\nepochs = 2.0", r"\[train\] epochs = 2.0 is not of kind int"),
        ("[train]\nepochs = true", r"epochs = True is not of kind int"),
        ("[train]\nalpha = '32'", r"alpha = '32' is not of kind float"),
        ("[train]\nalpha = true", r"alpha = True is not of kind float"),
        ("merge = 3", r"\[recipe\] merge = 3 is not of kind str"),
        ("merge = 'mean'", r"merge is 'sum', 'score' or 'best'"),
        ("beside_text = 0", r"beside_text is above 0, and finite"),
        ("codec = 'int3'", r"codec is one of float32, .*base3"),
        ("combine = 'both'", r"combine is 'together' or 'surer'"),
        ("offered = 'none'", r"offered is 'adapted' or 'base'"),
        ("base = 'big'", r"base = 'big': use one of paper, small"),
        ("base = ['paper']", r"base = \['paper'\]: use one of paper, small"),
        ("[train]\nrank = 0", r"train.rank is at least 1"),
        ("[train]\nlearning_rate = nan", r"train.learning_rate is above 0"),
        ("[train]\nbeta2 = 1", r"beta1, beta2 are in \[0, 1\)"),
        ("[train]\nloss = 'some'", r"train.loss is 'all' or 'answer'"),
        ("[augment]\npairs = 0", r"augment.pairs is at least 1"),
        ("[augment]\ntop_k = -1", r"augment.top_k is at least 0"),
        ("[augment]\nstyle = 'free'", r"augment.style is 'json', 'spans' or 'cloze'"),
        ("[wording]\npassage = '{titel}'", r"may hold \{title\} and \{text\} only"),
        ("[wording]\npassage = '{text.x}'", r"may hold \{title\} and \{text\} only"),
        ("[wording]\npassage = '{text'", r"may hold \{title\} and \{text\} only"),
        ("[wording]\npassage = '{title}'", r"wording.passage holds \{text\}"),
        ("[train\n", r"not a TOML file"),
    ],
)
def test_a_faulty_file_is_told_what_and_where(tmp_path, text, message):
    name = written(tmp_path, text)
    with pytest.raises(PragError, match=message) as error:
        load_recipe(name)
    assert "mine.toml" in str(error.value)


def test_a_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(PragError, match=r"mine\.toml: not a TOML file"):
        load_recipe(str(path))


def test_no_such_recipe(tmp_path):
    for name in ("papper", str(tmp_path / "none.toml"), str(tmp_path)):
        with pytest.raises(
            PragError, match=r"no recipe .*: use one of paper, small, or a TOML file"
        ):
            load_recipe(name)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (AugmentConfig, {"rewrites": -1}),
        (AugmentConfig, {"temperature": -0.1}),
        (AugmentConfig, {"max_new_tokens": 0}),
        (AugmentConfig, {"attempts": 0}),
        (TrainConfig, {"alpha": 0.0}),
        (TrainConfig, {"learning_rate": 0.0}),
        (TrainConfig, {"epochs": 0}),
        (TrainConfig, {"beta1": -0.1}),
        (TrainConfig, {"epsilon": 0.0}),
        (TrainConfig, {"weight_decay": -0.1}),
        (TrainConfig, {"sequences": "open"}),
        (GenerateConfig, {"max_new_tokens": 0}),
        (GenerateConfig, {"temperature": -1.0}),
        (GenerateConfig, {"top_k": -1}),
        (GenerateConfig, {"top_p": 0.0}),
        (GenerateConfig, {"rows": 0}),
        (Recipe, {"name": "x", "merge": "mean"}),
        (Wording, {"passage": "{}"}),
    ],
)
def test_values_out_of_range_are_refused(make, values):
    with pytest.raises(PragError):
        make(**values)

"""Model cards: read back as the Hub reads them, they hold the facts they were given and no others."""

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from cus.diffusion.uploads import prepare
from cus.hub.card import CardFacts, Column, ModelFacts, Row, Table, TrainingStage, card_text
from cus.hub.stored import local_folder

PSNR = Column("psnr", "PSNR", "dB", True, 2)
SSIM = Column("ssim", "SSIM", "", True, 3)
MODEL = ModelFacts({"unet": 1200, "vae": 34}, ["float16"], {"steps": 50, "eta": 1.0, "second_pass": True}, ["fp16"])
TABLE = Table(
    "Close-ups: x4",
    ["attic", 'the "yard"'],
    "Hard set",
    1234,
    [PSNR, SSIM],
    [
        Row("Hierarchical warp", False, {"psnr": (20.0, None), "ssim": (0.5, None)}),
        Row("Generated frame", True, {"psnr": (21.239, (20.0, 22.5))}),
        Row("3DGS of the generated frames", True, {"psnr": (22.0, None), "ssim": (0.61251, None)}),
    ],
)
BARE = CardFacts("org/name", MODEL)


def read(facts: CardFacts) -> ModelCard:
    return ModelCard(card_text(facts))


def test_numbers_of_the_model_stand_in_the_header_once_each_and_numbers_of_others_do_not():
    results = read(replace(BARE, tables=[TABLE])).data.eval_results
    assert results is not None
    found = {(result.dataset_config, result.metric_type): result.metric_value for result in results}
    assert found == {
        ("Generated frame", "psnr"): 21.24,
        ("3DGS of the generated frames", "psnr"): 22.0,
        ("3DGS of the generated frames", "ssim"): 0.613,
    }
    assert {result.dataset_type for result in results} == {"close-ups-x4"}
    assert {result.dataset_name for result in results} == {"Close-ups: x4 on 2 scenes, Hard set"}


def test_a_table_shows_every_row_with_intervals_and_a_dash_where_there_is_no_score():
    text = read(replace(BARE, tables=[TABLE])).content
    assert "| **Generated frame** (this model) | 21.24 [20.00, 22.50] | – |" in text
    assert "| Hierarchical warp | 20.00 | 0.500 |" in text
    assert '1,234 cases in 2 scenes: attic, the "yard".' in text


def test_parts_add_up_and_sampling_variants_and_training_are_told():
    stage = TrainingStage("U-Net", 5000, {"crop": [72, 128], "learning_rate": 1e-5, "objective.noise": True})
    card = read(replace(BARE, training=[stage], base_model=["a/b", "c/d"], license="mit"))
    for words in (
        "| all | 1,234 |",
        "| `eta` | 1 |",
        "| `second_pass` | yes |",
        "--variant fp16",
        "**U-Net**: 5,000 steps. Data: not recorded.",
        "| `crop` | 72, 128 |",
        "| `learning_rate` | 1e-05 |",
        "It started from a/b, c/d.",
    ):
        assert words in card.content
    assert card.data.to_dict()["base_model"] == ["a/b", "c/d"] and card.data.to_dict()["license"] == "mit"


@pytest.mark.parametrize("name", ["org/na.me", "org/name: 1", "org/'quoted'"])
def test_headers_survive_names_that_yaml_has_a_meaning_for(name: str):
    card = read(replace(BARE, repository=name, tables=[replace(TABLE, title="a: 'b' # c", group="- x")]))
    assert card.data.to_dict()["model-index"][0]["name"] == name.partition("/")[2]


def test_the_shipped_model_s_card_counts_its_parameters_and_states_its_licence():
    prepared = prepare(local_folder("mini"))
    card = ModelCard((local_folder("mini") / "README.md").read_text())
    assert card.data.to_dict()["license"] == "apache-2.0"
    for name, count in prepared.facts.parameters.items():
        assert f"| `{name}` | {count:,} |" in card.content
    words = {True: "yes", False: "no"}
    for name, value in prepared.facts.sampling.items():
        word = words[value] if isinstance(value, bool) else value if isinstance(value, str) else f"{value:g}"
        assert f"| `{name}` | {word} |" in card.content
    assert prepared.left_out == ()


def test_what_is_not_known_is_neither_in_the_header_nor_claimed():
    card = read(BARE)
    assert set(card.data.to_dict()) == {"library_name", "pipeline_tag", "tags"}
    for words in ("not recorded here", "No measurement is recorded", "licence is not stated"):
        assert words in card.content
    silent = read(replace(BARE, tables=[replace(TABLE, rows=TABLE.rows[:1])]))
    assert "model-index" not in silent.data.to_dict()

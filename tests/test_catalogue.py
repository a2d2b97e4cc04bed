"""The catalogue and the model cards: they say what the checkpoints themselves say, and what is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, metadata_load
from shipped_cases import assert_as_good_as_its_card
from test_checkpoint import toy_model

from hip_ext import HeadConfig, HessianModel
from hip_ext.card import model_card
from hip_ext.catalogue import heads
from hip_ext.checkpoint import WEIGHTS, read_config
from hip_ext.shipped import checkpoints_folder, shipped_checkpoints

DATA = Path(__file__).parent / "data" / "checkpoints"


ROOT = Path(__file__).parents[1]
SHIPPED_HEADS = heads(own=False)


def test_the_catalogue_lists_what_ships():
    assert sorted(name for name, head in SHIPPED_HEADS.items() if head.kind == "shipped") == shipped_checkpoints()


@pytest.mark.parametrize("name", shipped_checkpoints())
def test_an_entry_says_what_its_checkpoint_says(name):
    entry, folder = SHIPPED_HEADS[name].entry, SHIPPED_HEADS[name].folder
    config = read_config(folder)
    assert (entry.backbone.kind, entry.backbone.name) == (config.backbone.kind, config.backbone.name)
    assert (entry.elements, entry.licence) == (config.elements, config.license)
    assert entry.bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert entry.metrics.keys() == config.metrics.keys()
    for group, values in entry.metrics.items():
        for key, value in values.items():
            assert value == pytest.approx(config.metrics[group][key], rel=5e-4), (group, key)


@pytest.mark.parametrize("name", shipped_checkpoints())
def test_a_checkpoint_is_as_good_as_its_card_says(name, tmp_path, request):
    assert_as_good_as_its_card(name, tmp_path, request)


def test_times_are_those_that_were_measured():
    alone = {}
    for path in (ROOT / "benchmarks" / "results").glob("hessian_speed*.json"):
        found = json.loads(path.read_text())
        size = HeadConfig.from_dict(found["machine"]["head"])
        for one in found["cases"]:
            if one["batch"] == 1:
                alone[size, one["backbone"], one["atoms"]] = one["seconds"]["direct"]["median"]
    for head in SHIPPED_HEADS.values():
        for size, milliseconds in head.entry.milliseconds.items():
            seconds = alone[read_config(head.folder).head, head.entry.backbone.kind, int(size.removesuffix(" atoms"))]
            assert milliseconds == pytest.approx(1e3 * seconds, rel=0.02)


SHIPPED = [checkpoints_folder() / name for name in shipped_checkpoints()]


@pytest.mark.parametrize("folder", [*SHIPPED, DATA / "schema-2"])
def test_cards_are_what_the_hub_reads(folder):
    config = read_config(folder)
    assert (folder / "README.md").read_text(encoding="utf-8") == model_card(folder.name, config)
    card = ModelCard.load(folder / "README.md")
    found = metadata_load(folder / "README.md")
    assert (found["library_name"], found["license"]) == ("hip-ext", config.license)
    assert {"hessian", config.backbone.kind} <= set(found["tags"]) and found["metrics"] == ["mae"]
    results = {(one.dataset_name, one.metric_name): one.metric_value for one in card.data.eval_results}
    assert card.data.model_name == folder.name
    for group, values in config.metrics.items():
        assert results[group, "hessian mae"] == values["hessian_mae"]
    assert "More Information Needed" not in card.content
    assert len({one.dataset_type for one in card.data.eval_results}) == len(config.metrics)


def test_cards_name_base_and_data_that_are_on_the_hub(tmp_path):
    model = toy_model()
    training = {"datasets": ["me/molecules", "a file of mine.xyz", 3], "recipe": "a | b\nc"}
    HessianModel(model.backbone, model.head, training, {"x|y": {"mae": 1.0, "n": 3}, "note": "z"}).save_pretrained(
        tmp_path / 'quoted "name"'
    )
    found = metadata_load(tmp_path / 'quoted "name"' / "README.md")
    assert found["datasets"] == ["me/molecules"] and "base_model" not in found
    text = (tmp_path / 'quoted "name"' / "README.md").read_text()
    assert 'backbone = load_backbone("toy", ...)' in text
    assert r'from_pretrained("quoted \"name\"", backbone=backbone)' in text
    assert "- recipe: a \\| b c" in text and "| x\\|y | 1 | 3 |" in text
    shipped = metadata_load(checkpoints_folder() / "hip-so3lr-organic" / "README.md")
    assert "base_model" not in shipped  # the Hub has no model of that name
    assert WEIGHTS in read_config(checkpoints_folder() / "hip-so3lr-organic").sha256

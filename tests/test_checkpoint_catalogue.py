"""registry/checkpoints.yaml and the model cards: they say what the checkpoints themselves say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_load
from test_checkpoint import one_line, toy_model

from hip_ext import HessianModel
from hip_ext.card import model_card
from hip_ext.checkpoint import WEIGHTS, catalogue, read_config
from hip_ext.checkpoint.catalogue import read_catalogue
from hip_ext.errors import ConfigError
from hip_ext.shipped import checkpoints_folder, shipped_checkpoints

DATA = Path(__file__).parent / "data" / "checkpoints"


def test_the_catalogue_lists_what_ships():
    assert sorted(read_catalogue()) == shipped_checkpoints()


@pytest.mark.parametrize("name", sorted(read_catalogue()))
def test_an_entry_says_what_its_checkpoint_says(name):
    entry = read_catalogue()[name]
    folder = checkpoints_folder() / entry.folder
    config = read_config(folder)
    assert (entry.backbone.kind, entry.backbone.name) == (config.backbone.kind, config.backbone.name)
    assert (entry.elements, entry.licence) == (config.elements, config.license)
    assert entry.bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert entry.metrics.keys() == config.metrics.keys()
    for group, values in entry.metrics.items():
        for key, value in values.items():
            assert value == pytest.approx(config.metrics[group][key], rel=5e-4), (group, key)


def test_errors_of_a_catalogue_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "registry_folder", lambda: tmp_path)
    good = yaml.safe_load((checkpoints_folder().parent / "registry" / "checkpoints.yaml").read_text(encoding="utf-8"))
    cases = [
        ("checkpoints: [", "is not YAML"),
        ("[]", "Input should be"),
        (yaml.safe_dump(good).replace("licence", "license"), "licence': Field required"),
        (yaml.safe_dump(good).replace("licence:", "licnce: x\n    licence:"), "did you mean 'licence'?"),
        (yaml.safe_dump(good).replace("folder: hip", "folder: ../hip"), "should match pattern"),
        (yaml.safe_dump(good).replace("bytes: 1", "bytes: -1"), "bytes"),
        ("!!python/object/apply:os.system [true]", "is not YAML"),
    ]
    for text, message in cases:
        (tmp_path / "checkpoints.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"checkpoints\.yaml") as error:
            read_catalogue()
        assert message in one_line(error)
    (tmp_path / "checkpoints.yaml").unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        read_catalogue()


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
    assert r'from_pretrained("quoted \"name\"")' in text
    assert "- recipe: a \\| b c" in text and "| x\\|y | 1 | 3 |" in text
    shipped = metadata_load(checkpoints_folder() / "hip-so3lr-organic" / "README.md")
    assert shipped["base_model"] == "so3lr"
    assert WEIGHTS in read_config(checkpoints_folder() / "hip-so3lr-organic").sha256

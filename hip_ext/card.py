"""The model card of a checkpoint, filled from what is known about it and silent about what is not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from hip_ext.checkpoint.schema import CheckpointConfig

HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?", re.ASCII)
REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)
"""A model on the Hub. A few old ones have no owner, but neither has "so3lr", which is not there: no link to those."""


def model_card(name: str, config: CheckpointConfig) -> str:
    """README.md for the Hub: YAML front matter, what the head is, how it was made, what was measured."""
    from ase.data import chemical_symbols

    backbone = config.backbone
    elements = ", ".join(chemical_symbols[z] for z in config.elements) or "none: the head is untrained"
    parts = [
        "---",
        _front_matter(name, config),
        "---",
        f"# {name}",
        "",
        f"A Hessian head for the {backbone.kind} backbone `{backbone.name}`. It adds the full, symmetric, equivariant "
        f"Hessian (eV/Å²) to {_what_else(config)}",
        "",
        "```python",
        *_loading(json.dumps(name, ensure_ascii=False), config),
        "hessian = atoms.calc.get_hessian(atoms)  # (3N, 3N) float64, eV/Å²",
        "```",
        "",
        f"- Elements: {elements}",
        f"- Reach: two atoms up to {2 * config.head.cutoff:g} Å apart",
        f"- Backbone: `{backbone.name}`{f' of {backbone.revision}' if backbone.revision else ''}",
        f"- Backbone fingerprint: `{backbone.fingerprint}`",
        f"- Made with hip-ext {config.hip_ext_version}, {config.dtype}",
    ]
    if config.training:
        parts += ["", "## Training", "", *_rows(config.training)]
    if config.metrics:
        parts += ["", "## Measured", "", *_rows(config.metrics)]
    # A field with a line break in it is no second line of a card.
    written = [*parts[:3], *(" ".join(part.splitlines()) for part in parts[3:])]
    return "\n".join(written) + "\n"


def _loading(quoted: str, config: CheckpointConfig) -> list[str]:
    """How the head is loaded; the backbone comes by itself only if its framework knows it by name."""
    backbone = config.backbone
    if backbone.source == "release":
        return [
            "from hip_ext import HessianCalculator, from_pretrained",
            "",
            f"atoms.calc = HessianCalculator(from_pretrained({quoted}))",
        ]
    file = "path/to/" + backbone.name.replace("\\", "/").rpartition("/")[2]
    source = json.dumps(file, ensure_ascii=False) if backbone.source == "file" else "..."
    return [
        "from hip_ext import HessianCalculator, from_pretrained",
        "from hip_ext.backbones import load_backbone",
        "",
        f"backbone = load_backbone({json.dumps(backbone.kind)}, {source})",
        f"atoms.calc = HessianCalculator(from_pretrained({quoted}, backbone=backbone))",
    ]


def _what_else(config: CheckpointConfig) -> str:
    tuned = config.backbone.tuned
    if tuned is None:
        return (
            "a model whose energies and forces stay as they are. Only the head is in here; the backbone comes from "
            f"{'its own package' if config.backbone.source == 'release' else 'whoever uses it'} and is recognised by "
            "its fingerprint."
        )
    held = "all tensors" if tuned.whole else f"the {tuned.tensors} tensors that changed"
    return (
        f"a model that was trained together with it: energies and forces are not those of the original. Here are the "
        f"head and {held} of the backbone"
        + (
            "."
            if tuned.whole
            else ", which remain under the licence of the original; the rest comes from its own package."
        )
    )


def _front_matter(name: str, config: CheckpointConfig) -> str:
    from huggingface_hub import ModelCardData

    backbone, results = config.backbone, list(_results(config.metrics))
    datasets = config.training.get("datasets")
    on_hub = [x for x in datasets if isinstance(x, str) and HUB_ID.fullmatch(x)] if isinstance(datasets, list) else []
    is_hub_id = backbone.source == "release" and REPOSITORY.fullmatch(backbone.name)
    return ModelCardData(
        library_name="hip-ext",
        license=config.license,
        license_name="of-the-backbone" if config.license == "other" else None,
        base_model=backbone.name if is_hub_id else None,
        tags=["hessian", "vibrations", "interatomic-potential", backbone.kind],
        datasets=on_hub or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name if results else None,
        eval_results=results or None,
    ).to_yaml()


def _results(metrics: Mapping[str, Any]) -> Iterator[EvalResult]:
    """The mean absolute errors of every group of structures, as the Hub's leaderboards read them."""
    from huggingface_hub import EvalResult

    for group, values in metrics.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            if key.split("_")[-1] == "mae" and isinstance(value, int | float):
                yield EvalResult(
                    task_type="other",
                    task_name="Hessian prediction",
                    dataset_type=re.sub(r"\W+", "-", group).strip("-").lower() or "held-out",
                    dataset_name=group,
                    metric_type="mae",
                    metric_name=key.replace("_", " "),
                    metric_value=value,
                )


def _rows(values: dict[str, Any]) -> list[str]:
    """A Markdown table of tables, or of plain values."""
    nested = {key: value for key, value in values.items() if isinstance(value, dict)}
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    rows = [f"- {_text(key.replace('_', ' '))}: {_text(value)}" for key, value in plain.items()]
    if nested:
        columns = list(dict.fromkeys(key for value in nested.values() for key in value))
        titles = [_text(column.replace("_", " ")) for column in columns]
        rows += [""] * bool(plain) + ["| | " + " | ".join(titles) + " |", "|---" * (len(columns) + 1) + "|"]
        rows += [
            f"| {_text(key.replace('_', ' '))} | " + " | ".join(_text(value.get(c, "")) for c in columns) + " |"
            for key, value in nested.items()
        ]
    return rows


def _text(value: Any) -> str:
    """One cell of a table."""
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split()).replace("|", r"\|")

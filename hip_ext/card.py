"""The model card of a checkpoint, filled from what is known about it and silent about what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from ase.data import chemical_symbols

if TYPE_CHECKING:
    from hip_ext.checkpoint import CheckpointConfig


def model_card(name: str, config: CheckpointConfig) -> str:
    """README.md for the Hub: YAML front matter, what the head is, how it was made, what was measured."""
    backbone = config.backbone
    header = {
        "library_name": "hip-ext",
        "license": "mit",
        "tags": ["hessian", "vibrations", "interatomic-potential", backbone.kind],
    }
    elements = ", ".join(chemical_symbols[z] for z in config.elements) or "none: the head is untrained"
    parts = [
        "---",
        yaml.safe_dump(header, sort_keys=False).strip(),
        "---",
        f"# {name}",
        "",
        f"A Hessian head for the {backbone.kind} backbone `{backbone.name}`. It adds the full, symmetric, equivariant "
        "Hessian (eV/Å²) to a model whose energies and forces stay as they are. Only the head is in here; the backbone "
        "comes from its own package and is recognised by its fingerprint.",
        "",
        "```python",
        "from hip_ext import HessianCalculator, from_pretrained",
        "",
        f'atoms.calc = HessianCalculator(from_pretrained("{name}"))',
        "hessian = atoms.calc.get_hessian(atoms)  # (3N, 3N) float64, eV/Å²",
        "```",
        "",
        f"- Elements: {elements}",
        f"- Reach: two atoms up to {2 * config.head.cutoff:g} Å apart",
        f"- Backbone fingerprint: `{backbone.fingerprint}`",
        f"- Made with hip-ext {config.hip_ext_version}, {config.dtype}",
    ]
    if config.training:
        parts += ["", "## Training", "", *_rows(config.training)]
    if config.metrics:
        parts += ["", "## Measured", "", *_rows(config.metrics)]
    return "\n".join(parts) + "\n"


def _rows(values: dict[str, Any]) -> list[str]:
    """A Markdown table of tables, or of plain values."""
    nested = {key: value for key, value in values.items() if isinstance(value, dict)}
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    rows = [f"- {key.replace('_', ' ')}: {_text(value)}" for key, value in plain.items()]
    if nested:
        columns = list(dict.fromkeys(key for value in nested.values() for key in value))
        rows += [
            "",
            "| | " + " | ".join(c.replace("_", " ") for c in columns) + " |",
            "|---" * (len(columns) + 1) + "|",
        ]
        rows += [
            f"| {key.replace('_', ' ')} | " + " | ".join(_text(value.get(c, "")) for c in columns) + " |"
            for key, value in nested.items()
        ]
    return rows


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

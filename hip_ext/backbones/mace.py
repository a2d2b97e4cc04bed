"""MACE: the messages of every layer, whatever its products keep of them.

Layer k gathers messages Σ_j R(r_ij) Y(r̂_ij) h_j in the irreps C×0e + C×1o + C×2e + … . All released models have l up
to 3 there, also those whose products end in scalars alone, so scalars, vectors and tensors are read from what
`interactions[k]` returns and put one layer after the other along the channels. l = 1 is in the order (x, y, z).
"""

from __future__ import annotations

from typing import Any

import torch
from ase.calculators.calculator import Calculator
from torch import Tensor

from hip_ext.backbones.base import Backbone, BackboneSource, Evaluation
from hip_ext.backbones.borrowed import converted, ended_by, outputs_of, untouched, usable_device
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.backbones.graphs import boxed_cell, directed_edges
from hip_ext.backbones.mace_messages import MessageLayout
from hip_ext.backbones.mace_models import EXTRA, FRAMEWORK, REQUIREMENT, find_model, import_mace
from hip_ext.errors import BackboneError
from hip_ext.features import NodeFeatures, tensor_from_e3nn_l2
from hip_ext.pairs import pair_graph
from hip_ext.structures import Structures
from hip_ext.suggest import did_you_mean

BOX = 5.0
"""MACE's box around open structures: so many cutoffs per Å of extent."""


class MACEBackbone(Backbone):
    """A loaded MACE or ScaleShiftMACE.

    Args:
        model: the module; it is not changed.
        name: where it came from, for the checkpoint.
        head: which energy of a multi-head model; by default the one called "default", or else the last.

    Raises:
        BackboneError: the model has no such head, or reads inputs that a structure does not have.
    """

    kind = "mace"
    framework, requirement, extra = FRAMEWORK, REQUIREMENT, EXTRA

    def __init__(self, model: Any, name: str = "in-memory", head: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.cutoff = float(model.r_max)
        self.parity = "so3" if getattr(model, "use_so3", False) else "o3"
        self.elements = frozenset(model.atomic_numbers.tolist())
        self.head, self._head_index = _find_head(getattr(model, "heads", None) or ["Default"], head)
        self._embedded: dict[str, dict[str, Any]] = getattr(model, "embedding_specs", None) or {}
        unknown = sorted(set(self._embedded) - {"total_charge", "total_spin"})
        if unknown:
            raise BackboneError(
                f"this MACE model reads {', '.join(unknown)}: expected total_charge and total_spin only"
            )
        self._layouts = [MessageLayout.of(layer, self.parity) for layer in model.interactions]
        c0, c1, c2 = (sum(widths) for widths in zip(*(layout.widths for layout in self._layouts), strict=True))
        self.widths = (c0, c1, c2)
        self.source = BackboneSource(self.kind, name, fingerprint(model), {"head": self.head})

    @classmethod
    def load(
        cls,
        source: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        head: str | None = None,
    ) -> MACEBackbone:
        """Wraps a model.

        Args:
            source: a MACE or ScaleShiftMACE module; an open MACECalculator; the path of a `.model` file; or a released
                model, "mace_mp", "mace_off" or "mace_omol" (their defaults) or with a name that the MACE function of
                that name knows, such as "mace_mp:medium-mpa-0" or "mace_off:small", which downloads it. Files are
                pickles and run code when they are read: naming one here means trusting it.
            device: where the model shall be; by default where it is, or the CPU for a file.
            dtype: torch.float32 or torch.float64; by default the model's own. A module that is elsewhere or in another
                dtype is copied, never converted in place.
            head: as in the constructor.

        Raises:
            MissingDependencyError: MACE is not installed.
            BackboneError: there is no such model, or it is not one of MACE's energy models.
        """
        device = usable_device(device)
        model, name = find_model(source, device)
        if isinstance(source, Calculator):
            head = head or getattr(source, "head", None)
        return cls(converted(model, device, dtype), name, head)

    def prepare(self, structures: Structures) -> dict[str, Tensor]:
        """MACE's input dictionary: graph, one-hot elements, head, and charge and multiplicity where they are read."""
        self.check_elements(structures)
        structures, dtype = structures.to(self.device), self.dtype
        edges = directed_edges(pair_graph(structures, self.cutoff), structures, dtype)
        inputs = {
            "positions": structures.positions.detach().to(dtype).clone(),
            "node_attrs": (structures.numbers[:, None] == self.model.atomic_numbers).to(dtype),
            "edge_index": edges.index,
            "unit_shifts": edges.unit_shifts,
            "shifts": edges.shifts,
            "cell": boxed_cell(structures, BOX * self.cutoff).reshape(-1, 3).to(dtype),
            "batch": structures.batch,
            "ptr": structures.ptr,
            "head": torch.full_like(structures.ptr[1:], self._head_index),
        }
        electrons = {"total_charge": structures.charge, "total_spin": structures.unpaired + 1}
        for name, spec in self._embedded.items():
            _check_embedded(name, electrons[name], spec)
            inputs[name] = electrons[name].to(dtype)
        return inputs

    def energy(self, inputs: dict[str, Tensor]) -> Tensor:
        """Total energy in eV, [B]."""
        return self.model(dict(inputs), compute_force=False)["energy"]

    def features(self, inputs: dict[str, Tensor]) -> NodeFeatures:
        """The messages of all layers, from one forward pass that ends with the last of them."""
        with outputs_of(self.model.interactions) as outputs, ended_by(self.model.interactions[-1]):
            self.model(dict(inputs), compute_force=False)
        return self.collected(outputs)

    def energy_and_features(self, inputs: dict[str, Tensor]) -> tuple[Tensor, NodeFeatures]:
        """Total energy in eV, [B], and messages, from one pass."""
        with outputs_of(self.model.interactions) as outputs:
            energy = self.model(dict(inputs), compute_force=False)["energy"]
        return energy, self.collected(outputs)

    def evaluate(self, structures: Structures, *, stress: bool = False) -> Evaluation:
        """Energy, forces, optionally stress, and messages, from one pass."""
        inputs = self.prepare(structures)
        with torch.enable_grad(), outputs_of(self.model.interactions) as outputs:
            found = self.model(inputs, compute_force=True, compute_stress=stress)
        tensor = found["stress"].detach() if stress else None
        return Evaluation(found["energy"].detach(), found["forces"].detach(), tensor, self.collected(outputs).detach())

    def calculator(self) -> Calculator:
        """A MACECalculator around the same module, for the same head."""
        calculators = import_mace("mace.calculators")
        dtype = str(self.dtype).removeprefix("torch.")
        with untouched(self.model):
            return calculators.MACECalculator(
                models=[self.model], device=str(self.device), default_dtype=dtype, head=self.head
            )

    def collected(self, outputs: list[tuple[Tensor, Tensor | None]]) -> NodeFeatures:
        """Features from what the interactions of one pass have returned."""
        split = [layout.split(message) for (message, _), layout in zip(outputs, self._layouts, strict=True)]
        scalars, vectors, components = (torch.cat(blocks, dim=1) for blocks in zip(*split, strict=True))
        return NodeFeatures(scalars.squeeze(-1), vectors, tensor_from_e3nn_l2(components), self.parity)


def _find_head(heads: list[str], wanted: str | None) -> tuple[str, int]:
    if wanted is None:
        wanted = next((head for head in heads if head.lower() == "default"), heads[-1])
    if wanted not in heads:
        raise BackboneError(
            f"this MACE model has no head {wanted!r}{did_you_mean(wanted, heads)}; it has {', '.join(heads)}"
        )
    return wanted, heads.index(wanted)


def _check_embedded(name: str, values: Tensor, spec: dict[str, Any]) -> None:
    """Raises BackboneError for a charge or multiplicity outside the table in which the model looks it up."""
    if spec["type"] != "categorical":
        return
    offset, classes = int(spec.get("offset", 0)), int(spec["num_classes"])
    if bool(((values + offset < 0) | (values + offset >= classes)).any()):
        raise BackboneError(
            f"this MACE model knows {name} from {-offset} to {classes - 1 - offset}, found {values.tolist()}"
        )

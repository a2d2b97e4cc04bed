"""SevenNet: the node features that each layer hands to the next.

A model is a sequence of small modules that read and write one dictionary. The last of every layer is a gate; what it
leaves has the irreps C0×0e + C1×1o + C2×2e + …, among others, or C0×0e + C1×1e + C2×2e + … where the model was trained
without parity, as 7net-0 and 7net-l3i5 were. Scalars, vectors and tensors of all layers are put one after the other
along the channels; the last layer has scalars alone. l = 1 is in the order (x, y, z).
"""

from __future__ import annotations

from typing import Any

import torch
from ase.calculators.calculator import Calculator
from torch import Tensor

from hip_ext.backbones.base import Backbone, BackboneSource, Evaluation
from hip_ext.backbones.borrowed import converted, usable_device
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.backbones.sevennet_models import EXTRA, FRAMEWORK, REQUIREMENT, find_modal, find_model, lent
from hip_ext.features import NodeFeatures, Parity, Widths, tensor_from_e3nn_l2
from hip_ext.pairs import pair_graph
from hip_ext.structures import Structures

GATE, LAST_BEFORE_FORCES = "_equivariant_gate", "reduce_total_enegy"
"""Names in SevenNet's sequence: how those of the gates end, and the sum of the atoms' energies (spelt so)."""

SMALLEST_VOLUME = 1e-3
"""Å³; by this SevenNet divides the virial of a structure whose cell has no volume."""

FULL_STRESS = [0, 3, 5, 3, 1, 4, 5, 4, 2]
"""The 3×3 matrix, row by row, of components in SevenNet's order xx, yy, zz, xy, yz, zx."""


class SevenNetBackbone(Backbone):
    """A loaded SevenNet model.

    Args:
        model: an `AtomGraphSequential`; it is not changed.
        name: where it came from, for the checkpoint.
        modal: which of its levels of theory a multi-modal model shall speak for, such as "PBE"; None for all others.

    Raises:
        BackboneError: the model has no such modal, or has several and none was named.
    """

    kind = "sevennet"
    framework, requirement, extra = FRAMEWORK, REQUIREMENT, EXTRA

    def __init__(self, model: Any, name: str = "in-memory", modal: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.cutoff = float(model.cutoff)
        self.elements = frozenset(model.type_map)
        self.modal, self._modal_index = find_modal(model.modal_map or {}, modal)
        odd = any(irrep.p < 0 for _, irrep in model.edge_embedding.spherical.irreps_out)
        self.parity = "o3" if odd else "so3"
        gates = {name: part.gate for name, part in model.named_children() if name.endswith(GATE)}
        self._layouts = {name: _layout(gate.irreps_out, self.parity) for name, gate in gates.items()}
        self._last_gate = list(gates)[-1]
        self.widths = _widths([block for layout in self._layouts.values() for block in layout])
        self.source = BackboneSource(self.kind, name, fingerprint(model), {"modal": modal} if modal else {})

    @classmethod
    def load(
        cls,
        source: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        modal: str | None = None,
    ) -> SevenNetBackbone:
        """Wraps a model.

        Args:
            source: the name of a released model, such as "7net-0" or "7net-l3i5"; some are inside the sevenn wheel, and
                SevenNet downloads the others; an AtomGraphSequential; an open SevenNetCalculator; or the path of a
                checkpoint. Files are pickles and run code when they are read: naming one here means trusting it.
            device: where the model shall be; by default where it is, or the CPU for a name or a file.
            dtype: torch.float32 or torch.float64; by default the model's own. A module that is elsewhere or in another
                dtype is copied, never converted in place.
            modal: as in the constructor; by default that of the calculator.

        Raises:
            MissingDependencyError: SevenNet is not installed.
            BackboneError: there is no such model or modal, or it is not one of SevenNet's energy models.
        """
        device = usable_device(device)
        model, name = find_model(source)
        if isinstance(source, Calculator):
            modal = modal or getattr(source, "modal", None)
        return cls(converted(model, device, dtype), name, modal)

    def prepare(self, structures: Structures) -> dict[str, Tensor]:
        """SevenNet's input dictionary, with positions and offsets in the place of the vectors made of them.

        The vector of an edge is r_j − r_i + `offset`. The offset is a lattice vector and, in single precision, what the
        difference of two rounded positions has lost: only the vectors are rounded, as in SevenNet.
        """
        self.check_elements(structures)
        structures, dtype = structures.to(self.device), self.dtype
        centre, neighbour, _, vector = pair_graph(structures, self.cutoff).directed()
        positions = structures.positions.detach().to(dtype).clone()
        volume = torch.linalg.det(structures.cell).abs().clamp(min=SMALLEST_VOLUME)
        inputs = {
            "positions": positions,
            "offset": (vector.detach() - (positions[neighbour] - positions[centre])).to(dtype),
            "edge_index": torch.stack((centre, neighbour)),
            "x": self.model.z_to_onehot_tensor.to(self.device)[structures.numbers],
            "batch": structures.batch,
            "num_atoms": structures.ptr[1:] - structures.ptr[:-1],
            "cell_volume": volume.to(dtype),
        }
        if self._modal_index is not None:
            inputs["modal_type"] = torch.full_like(inputs["num_atoms"], self._modal_index)
        return inputs

    def energy(self, inputs: dict[str, Tensor]) -> Tensor:
        """Total energy in eV, [B]."""
        return self._run(_with_vectors(inputs), LAST_BEFORE_FORCES)[0]["inferred_total_energy"]

    def features(self, inputs: dict[str, Tensor]) -> NodeFeatures:
        """What the gates of all layers leave, from one pass that ends with the last of them."""
        return self._run(_with_vectors(inputs), self._last_gate)[1]

    def energy_and_features(self, inputs: dict[str, Tensor]) -> tuple[Tensor, NodeFeatures]:
        """Total energy in eV, [B], and features, from one pass."""
        data, features = self._run(_with_vectors(inputs), LAST_BEFORE_FORCES)
        return data["inferred_total_energy"], features

    def evaluate(self, structures: Structures, *, stress: bool = False) -> Evaluation:
        """Energy, forces, optionally stress, and features, from one pass."""
        with torch.enable_grad():
            data = _with_vectors(self.prepare(structures))
            data["edge_vec"].requires_grad_(True)
            found, features = self._run(data)
        tensor = -found["inferred_stress"][:, FULL_STRESS].reshape(-1, 3, 3).detach() if stress else None
        energy, forces = found["inferred_total_energy"].detach(), found["inferred_force"].detach()
        return Evaluation(energy, forces, tensor, features.detach())

    def calculator(self) -> Calculator:
        """A SevenNetCalculator around the same module, for the same modal and in the module's dtype."""
        from hip_ext.backbones.sevennet_calculator import SharedModelCalculator

        return SharedModelCalculator(self)

    def _run(self, data: dict[str, Tensor], last: str | None = None) -> tuple[dict[str, Tensor], NodeFeatures]:
        """The dictionary as the modules up to `last` leave it, all by default, and the features so far."""
        blocks: list[list[Tensor]] = [[], [], []]
        with lent(self.model, batched=True):
            for name, module in self.model.named_children():
                data = module(data)
                for degree, channels, columns in self._layouts.get(name, ()):
                    blocks[degree].append(data["x"][:, columns].unflatten(1, (channels, 2 * degree + 1)))
                if name == last:
                    break
        scalars, vectors, components = (
            torch.cat(parts, 1) if parts else data["x"].new_zeros(len(data["x"]), 0, 2 * degree + 1)
            for degree, parts in enumerate(blocks)
        )
        return data, NodeFeatures(scalars.squeeze(-1), vectors, tensor_from_e3nn_l2(components), self.parity)


Block = tuple[int, int, slice]
"""Degree, channels C, and the C·(2l + 1) columns of x that hold them."""


def _layout(irreps: Any, parity: Parity) -> list[Block]:
    """Where degrees 0, 1 and 2 of natural parity, (−1)^l, are; a SevenNet without parity calls all degrees even."""
    blocks, start = [], 0
    for channels, irrep in irreps:
        stop = start + channels * irrep.dim
        if irrep.l <= 2 and irrep.p == (1 if parity == "so3" else (-1) ** irrep.l):
            blocks.append((irrep.l, channels, slice(start, stop)))
        start = stop
    return blocks


def _widths(blocks: list[Block]) -> Widths:
    c0, c1, c2 = (sum(channels for degree, channels, _ in blocks if degree == wanted) for wanted in range(3))
    return c0, c1, c2


def _with_vectors(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What SevenNet's modules read: a new dictionary, since they write into it."""
    data = dict(inputs)
    positions, offset = data.pop("positions"), data.pop("offset")
    centre, neighbour = data["edge_index"]
    return data | {"edge_vec": positions[neighbour] - positions[centre] + offset}

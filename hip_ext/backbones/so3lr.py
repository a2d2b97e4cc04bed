"""SO3LR, from the so3krates-torch wheel: invariants and Euclidean variables of every transformer layer.

Layer k returns invariants [N, 128] and Euclidean variables [N, 24] of degrees 1 to 4, one channel each. Columns 0:3
are l = 1 in the order (y, z, x), columns 3:8 are l = 2 in the order (xy, yz, 3z²−r², xz, x²−y²). Both have the natural
parity, so the features are O(3)-equivariant. Long-range electrostatics and dispersion enter energy and forces only.
"""

from __future__ import annotations

import importlib.resources
from typing import Any

import torch
from ase.calculators.calculator import Calculator
from torch import Tensor, nn

from hip_ext.backbones.base import Backbone, BackboneSource, Evaluation
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.features import NodeFeatures, tensor_from_real_l2
from hip_ext.pairs import PairGraph, pair_graph
from hip_ext.structures import Structures

ELEMENTS = frozenset(range(1, 119))
YZX_TO_XYZ = [2, 0, 1]


class SO3LRBackbone(Backbone):
    """A loaded SO3LR model.

    Args:
        model: a `so3krates_torch` SO3LR or So3krates module; it is not changed, only hooked.
        name: where it came from, for the checkpoint.
        long_range_cutoff: Å, for electrostatics and dispersion; 12 Å as SO3LR was published.
        dispersion_damping: width in Å over which dispersion is switched off below that cutoff.
    """

    kind = "so3lr"
    parity = "o3"
    elements = ELEMENTS

    def __init__(
        self, model: nn.Module, name: str = "in-memory", long_range_cutoff: float = 12.0, dispersion_damping: float = 2.0
    ) -> None:
        super().__init__()
        self.model = model
        self.cutoff = float(model.r_max)
        self.long_range_cutoff = long_range_cutoff
        self.dispersion_damping = dispersion_damping
        layers = len(model.euclidean_transformers)
        self.widths = (layers * int(model.num_features), layers, layers)
        options = {"long_range_cutoff": long_range_cutoff, "dispersion_damping": dispersion_damping}
        self.source = BackboneSource(self.kind, name, fingerprint(model), options)
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._hooks = [layer.register_forward_hook(self._capture) for layer in model.euclidean_transformers]

    @classmethod
    def load(cls, source: Any = None, device: str = "cpu", dtype: torch.dtype | None = None, **options: Any) -> SO3LRBackbone:
        """Wraps a module, an open calculator, or the weights inside the installed so3krates-torch wheel (`None`)."""
        if source is None or source == "so3lr":
            folder = importlib.resources.files("so3krates_torch")
            # The wheel's own file, installed together with the code that reads it.
            with importlib.resources.as_file(folder / "pretrained/so3lr/so3lr.model") as path:
                model, name = torch.load(path, map_location=device, weights_only=False), "so3lr"
        elif isinstance(source, nn.Module):
            model, name = source, "in-memory"
        elif hasattr(source, "models"):
            model, name = source.models[0], "calculator"
        else:
            model, name = torch.load(source, map_location=device, weights_only=False), str(source)
        if dtype is not None:
            model = model.to(dtype)
        return cls(model.eval(), name=name, **options)

    def _capture(self, module: nn.Module, args: object, output: tuple[Tensor, Tensor]) -> None:
        self._layers.append((output[0], output[1]))

    def prepare(self, structures: Structures) -> dict[str, Tensor]:
        """SO3LR's input dictionary: short- and long-range graph, one-hot elements, charge and spin."""
        self.check_elements(structures)
        everywhere = pair_graph(structures, self.long_range_cutoff)
        short = everywhere.within(self.cutoff)[0]
        long_edges, long_shifts = _edges(everywhere, structures)
        edges, shifts = _edges(short, structures)
        positions = structures.positions.detach().to(self.dtype).clone()
        return {
            "positions": positions,
            "cell": structures.cell.to(self.dtype),
            "atomic_numbers": structures.numbers,
            "node_attrs": nn.functional.one_hot(structures.numbers - 1, int(self.model.num_elements)).to(self.dtype),
            "edge_index": edges,
            "shifts": shifts,
            "edge_index_lr": long_edges,
            "shifts_lr": long_shifts,
            "batch": structures.batch,
            "ptr": structures.ptr,
            "head": torch.zeros_like(structures.ptr[1:]),
            "total_charge": structures.charge.to(self.dtype),
            "total_spin": structures.unpaired.to(self.dtype) / 2,
        }

    def energy(self, inputs: dict[str, Tensor]) -> Tensor:
        """Total energy in eV, [B]."""
        return self._forward(inputs, compute_force=False)["energy"]

    def features(self, inputs: dict[str, Tensor]) -> NodeFeatures:
        """Invariants, vectors and tensors of all layers, without the energy heads."""
        self._layers.clear()
        # The representation does not read the long-range graph; empty, it costs nothing.
        short = {**inputs, "edge_index_lr": inputs["edge_index_lr"][:, :0], "shifts_lr": inputs["shifts_lr"][:0]}
        self.model.get_representation(short, compute_force=False)
        return self._collect()

    def evaluate(self, structures: Structures, *, stress: bool = False) -> Evaluation:
        """Energy, forces, optionally stress, and features from one pass."""
        inputs = self.prepare(structures)
        if stress:
            inputs |= _unit_shifts(structures, self.long_range_cutoff, self.cutoff)
        output = self._forward(inputs, compute_force=True, compute_stress=stress)
        found = output["stress"].detach() if stress else None
        return Evaluation(output["energy"].detach(), output["forces"].detach(), found, self._collect().detach())

    def calculator(self) -> Calculator:
        """so3krates-torch's own ASE calculator around the same module."""
        from so3krates_torch.calculator.so3 import TorchkratesCalculator

        return TorchkratesCalculator(
            models=self.model,
            r_max_lr=self.long_range_cutoff,
            dispersion_energy_cutoff_lr_damping=self.dispersion_damping,
            device=str(self.device),
            default_dtype=str(self.dtype).removeprefix("torch."),
        )

    def close(self) -> None:
        """Removes the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _forward(self, inputs: dict[str, Tensor], **flags: bool) -> dict[str, Tensor]:
        self._layers.clear()
        model = self.model
        before = model.r_max_lr, model.dispersion_energy_cutoff_lr_damping
        model.r_max_lr, model.dispersion_energy_cutoff_lr_damping = self.long_range_cutoff, self.dispersion_damping
        try:
            return model(dict(inputs), **flags)
        finally:
            model.r_max_lr, model.dispersion_energy_cutoff_lr_damping = before

    def _collect(self) -> NodeFeatures:
        layers, self._layers = self._layers, []
        euclidean = torch.stack([variables for _, variables in layers], dim=1)
        return NodeFeatures(
            scalars=torch.cat([invariants for invariants, _ in layers], dim=1),
            vectors=euclidean[..., :3][..., YZX_TO_XYZ],
            tensors=tensor_from_real_l2(euclidean[..., 3:8]),
            parity="o3",
        )


def _edges(graph: PairGraph, structures: Structures) -> tuple[Tensor, Tensor]:
    """Directed edges [2, E] and their shifts in Å, [E, 3], with vector = r[edge 1] − r[edge 0] + shift."""
    centre, neighbour, shift, _ = graph.directed()
    cell = structures.cell[structures.batch[centre]]
    return torch.stack((centre, neighbour)), torch.einsum("ek,ekx->ex", shift.to(cell.dtype), cell).to(cell.dtype)


def _unit_shifts(structures: Structures, long_cutoff: float, cutoff: float) -> dict[str, Tensor]:
    """Lattice shifts of both graphs as real numbers, which the strain derivative needs."""
    everywhere = pair_graph(structures, long_cutoff)
    short = everywhere.within(cutoff)[0]
    real = structures.cell.dtype
    return {"unit_shifts": short.directed()[2].to(real), "unit_shifts_lr": everywhere.directed()[2].to(real)}

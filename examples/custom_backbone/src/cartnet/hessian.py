"""CartNet for hip-ext: the features are s, v and t as every layer returns them, side by side along the channels."""

from __future__ import annotations

from typing import Any

import torch
from ase.calculators.calculator import Calculator
from torch import Tensor

from cartnet import CartNet, CartNetCalculator, released
from hip_ext.backbones import Backbone, BackboneSource, Evaluation
from hip_ext.backbones.borrowed import converted, outputs_of, usable_device
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.errors import BackboneError
from hip_ext.features import NodeFeatures
from hip_ext.pairs import pair_graph
from hip_ext.structures import Structures


class CartNetBackbone(Backbone):
    """A loaded CartNet, not changed."""

    kind = "cartnet"
    parity = "o3"

    def __init__(self, model: CartNet, name: str = "in-memory") -> None:
        super().__init__()
        self.model = model
        self.cutoff, self.elements = model.cutoff, frozenset(model.elements)
        self.widths = (model.channels * len(model.layers),) * 3
        self.source = BackboneSource(self.kind, name, fingerprint(model))

    @classmethod
    def load(cls, source: Any = None, device: Any = None, dtype: Any = None) -> CartNetBackbone:
        """Wraps a CartNet, or a released one by its name."""
        try:
            model = source if isinstance(source, CartNet) else released(source or "cartnet-demo")
        except KeyError:
            raise BackboneError(f"there is no CartNet {source!r}: cartnet-demo and cartnet-wide are released") from None
        name = "in-memory" if model is source else source or "cartnet-demo"
        return cls(converted(model, usable_device(device), dtype), name)

    def prepare(self, structures: Structures) -> dict[str, Tensor]:
        """Species, edges, and the lattice vectors in Å between the cells of their two atoms."""
        self.check_elements(structures)
        structures = structures.to(self.device)
        i, j, shift, _ = pair_graph(structures, self.cutoff).directed()
        known = torch.tensor(self.model.elements, device=self.device)
        return {
            "positions": structures.positions.detach().to(self.dtype).clone(),
            "species": (structures.numbers[:, None] == known).long().argmax(-1),
            "edges": torch.stack((i, j)),
            "offset": torch.einsum("ek,ekx->ex", shift.to(structures.cell), structures.cell[structures.batch[i]]),
            "batch": structures.batch,
            "ptr": structures.ptr,
        }

    def energy(self, inputs: dict[str, Tensor]) -> Tensor:
        """eV, [B]."""
        return self._run(inputs, _vectors(inputs))[0]

    def features(self, inputs: dict[str, Tensor]) -> NodeFeatures:
        """Of one pass."""
        return self._run(inputs, _vectors(inputs))[1]

    def evaluate(self, structures: Structures, *, stress: bool = False) -> Evaluation:
        """Forces and stress, from the derivative of the energy by the vector of each edge."""
        inputs = self.prepare(structures)
        i, j = inputs["edges"]
        vector = _vectors(inputs).requires_grad_(True)
        with torch.enable_grad():
            energy, features = self._run(inputs, vector)
            (slope,) = torch.autograd.grad(energy.sum(), vector)
        forces = torch.zeros_like(inputs["positions"]).index_add(0, i, slope).index_add(0, j, -slope)
        found = None
        if stress:
            moments = vector.detach()[:, :, None] * slope[:, None, :]
            virial = moments.new_zeros(len(energy), 3, 3).index_add(0, inputs["batch"][i], moments)
            volume = torch.linalg.det(structures.cell).abs().to(virial)[:, None, None]
            found = (virial + virial.transpose(1, 2)) / (2 * volume)
        return Evaluation(energy.detach(), forces, found, features.detach())

    def calculator(self) -> Calculator:
        """CartNet's own, around the same model."""
        return CartNetCalculator(self.model)

    def _run(self, inputs: dict[str, Tensor], vector: Tensor) -> tuple[Tensor, NodeFeatures]:
        with outputs_of(self.model.layers) as layers:
            atoms = self.model(inputs["species"], inputs["edges"], vector)
        energy = atoms.new_zeros(len(inputs["ptr"]) - 1).index_add(0, inputs["batch"], atoms)
        return energy, NodeFeatures(*(torch.cat(parts, dim=1) for parts in zip(*layers, strict=True)))


def _vectors(inputs: dict[str, Tensor]) -> Tensor:
    """From atom to neighbour, Å, [E, 3]."""
    positions, (i, j) = inputs["positions"], inputs["edges"]
    return positions[j] - positions[i] + inputs["offset"].to(positions)

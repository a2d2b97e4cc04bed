"""A small analytic potential with everything that a `Backbone` owes, in closed form, for tests of all that uses one.

    E = ½ Σ_ij φ_ij(r) + Σ_i Σ_c (a_c s_c² + b_c |v_c|² + d_c |t_c|²) + Σ_i (0.1 Q s_0 + 0.05 U s_1)

φ is a Morse potential; s, v and t are sums over the neighbours of atom i of w_c(z_j) g_c(r) times 1, r̂ and r̂r̂ᵀ − 1/3,
so that the second sum holds angles at atom i as the Stillinger–Weber potential does. Q is the total charge and U the
number of unpaired electrons. Everything vanishes at the cutoff with two continuous derivatives. The features are
s, v and t themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor, nn

from hip_ext.backbones.base import Backbone, BackboneSource, Evaluation
from hip_ext.backbones.borrowed import converted, usable_device
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.features import NodeFeatures
from hip_ext.pairs import pair_graph
from hip_ext.structures import Structures

ELEMENTS = (1, 6, 7, 8, 9, 14, 16, 17, 18, 29)
MORSE_DECAY = 1.5
GAUSSIAN_WIDTH = 0.6


class ToyModel(nn.Module):
    """The potential of this module's docstring.

    Args:
        cutoff: Å.
        channels: width C of each of s, v and t; at least 2.
        angular: scale of the coefficients a, b and d in eV; 0 leaves the Morse pairs alone.
        seed: of the coefficients a, b, d and w.
    """

    def __init__(self, cutoff: float = 4.0, channels: int = 6, angular: float = 0.1, seed: int = 0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random, dtype=torch.float64)

        self.cutoff = cutoff
        self.depth = nn.Parameter(0.5 + torch.rand(len(ELEMENTS), generator=random, dtype=torch.float64))
        self.weights = nn.Parameter(normal(len(ELEMENTS), channels))
        self.coefficients = nn.Parameter(angular * normal(3, channels))
        self.register_buffer("radii", torch.tensor(covalent_radii[list(ELEMENTS)]))
        self.register_buffer("centres", torch.linspace(0.8, cutoff, channels, dtype=torch.float64))

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, NodeFeatures]:
        """Energies of the structures, eV [B], and the features of the atoms."""
        species, batch = inputs["species"], inputs["batch"]
        centre, neighbour = inputs["edge_index"]
        vector = inputs["positions"][neighbour] - inputs["positions"][centre] + inputs["shifts"]
        distance = torch.linalg.vector_norm(vector, dim=-1)
        envelope = (1 - (distance / self.cutoff) ** 2) ** 3

        morse = torch.exp(-MORSE_DECAY * (distance - self.radii[species[centre]] - self.radii[species[neighbour]]))
        depth = (self.depth[species[centre]] * self.depth[species[neighbour]]).sqrt()
        pair = distance.new_zeros(len(species)).index_add(0, centre, depth * (morse**2 - 2 * morse) * envelope / 2)

        radial = torch.exp(-(((distance[:, None] - self.centres) / GAUSSIAN_WIDTH) ** 2) / 2) * envelope[:, None]
        radial = radial * self.weights[species[neighbour]]  # [E, C]
        unit = vector / distance[:, None]
        outer = unit[:, :, None] * unit[:, None, :] - torch.eye(3).to(unit) / 3

        def gather(edges: Tensor) -> Tensor:
            return edges.new_zeros(len(species), *edges.shape[1:]).index_add(0, centre, edges)

        s = gather(radial)
        v = gather(radial[:, :, None] * unit[:, None, :])
        t = gather(radial[:, :, None, None] * outer[:, None, :, :])

        a, b, d = self.coefficients
        angles = (a * s**2 + b * (v**2).sum(-1) + d * (t**2).sum((-1, -2))).sum(-1)
        electrons = 0.1 * inputs["charge"][batch] * s[:, 0] + 0.05 * inputs["unpaired"][batch] * s[:, 1]
        energy = distance.new_zeros(len(inputs["charge"])).index_add(0, batch, pair + angles + electrons)
        return energy, NodeFeatures(torch.cat((self.weights[species], s), dim=1), v, t)


class ToyBackbone(Backbone):
    """A `ToyModel` behind the contract that every framework's adapter keeps."""

    kind = "toy"
    parity = "o3"
    elements = frozenset(ELEMENTS)

    def __init__(self, model: ToyModel | None = None, name: str = "in-memory") -> None:
        super().__init__()
        self.model = ToyModel() if model is None else model
        self.cutoff = self.model.cutoff
        channels = self.model.weights.shape[1]
        self.widths = (2 * channels, channels, channels)
        self.source = BackboneSource(self.kind, name, fingerprint(self.model), {})

    @classmethod
    def load(
        cls,
        source: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> ToyBackbone:
        """Wraps a model, or makes one, in float64, with the arguments of `ToyModel`."""
        model = source if isinstance(source, ToyModel) else ToyModel(**options)
        return cls(converted(model, usable_device(device), dtype), "in-memory" if model is source else "toy")

    def prepare(self, structures: Structures) -> dict[str, Tensor]:
        """Directed edges with their shifts in Å, species as rows of `ELEMENTS`, charge and spin."""
        self.check_elements(structures)
        structures = structures.to(self.device)
        centre, neighbour, shift, _ = pair_graph(structures, self.cutoff).directed()
        shifts = torch.einsum("ek,ekx->ex", shift.to(structures.cell), structures.cell[structures.batch[centre]])
        known = torch.tensor(ELEMENTS, device=self.device)
        return {
            "positions": structures.positions.detach().to(self.dtype).clone(),
            "species": (structures.numbers[:, None] == known).long().argmax(-1),
            "edge_index": torch.stack((centre, neighbour)),
            "shifts": shifts.to(self.dtype),
            "batch": structures.batch,
            "charge": structures.charge.to(self.dtype),
            "unpaired": structures.unpaired.to(self.dtype),
        }

    def energy(self, inputs: dict[str, Tensor]) -> Tensor:
        """Total energies, eV [B]."""
        return self.model(inputs)[0]

    def features(self, inputs: dict[str, Tensor]) -> NodeFeatures:
        """Element weights and s as scalars, v as vectors, t as tensors."""
        return self.model(inputs)[1]

    def evaluate(self, structures: Structures, *, stress: bool = False) -> Evaluation:
        """Energy, forces, stress by a symmetric strain of positions and shifts, and features."""
        inputs = self.prepare(structures)
        with torch.enable_grad():
            positions = inputs["positions"].requires_grad_(True)
            strain = positions.new_zeros(structures.num_systems, 3, 3, requires_grad=True)
            deformation = torch.eye(3).to(strain) + (strain + strain.transpose(-1, -2)) / 2
            of_edge = deformation[inputs["batch"][inputs["edge_index"][0]]]
            strained = {
                "positions": torch.einsum("nx,nxy->ny", positions, deformation[inputs["batch"]]),
                "shifts": torch.einsum("ex,exy->ey", inputs["shifts"], of_edge),
            }
            energy, features = self.model({**inputs, **strained})
            gradient, virial = torch.autograd.grad(energy.sum(), (positions, strain))
        volume = torch.linalg.det(structures.cell.to(virial)).abs()
        found = virial / volume[:, None, None] if stress else None
        return Evaluation(energy.detach(), -gradient, found, features.detach())

    def calculator(self) -> Calculator:
        """An ASE calculator around the same model."""
        return ToyCalculator(self)


class ToyCalculator(Calculator):
    """Energy, forces and, for bulk structures, stress of a `ToyBackbone`."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def __init__(self, backbone: ToyBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fills `results`, as ASE asks."""
        super().calculate(atoms, properties, system_changes)
        bulk = bool(self.atoms.pbc.all())
        found = self.backbone.evaluate(Structures.from_ase(self.atoms), stress=bulk)
        energy, forces = float(found.energy), found.forces.cpu().numpy().astype(float)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}
        if found.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(found.stress[0].cpu().numpy().astype(float))

"""SO3LR, from the so3krates-torch wheel: invariants and Euclidean variables of every transformer layer.

Layer k returns invariants [N, 128] and Euclidean variables [N, 24] of degrees 1 to 4, one channel each. Columns 0:3
are l = 1 in the order (y, z, x), columns 3:8 are l = 2 in the order (xy, yz, 3z²−r², xz, x²−y²). Both have the natural
parity, so the features are O(3)-equivariant. Long-range electrostatics and dispersion enter energy and forces only.
"""

from __future__ import annotations

import importlib
import importlib.resources
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ase.calculators.calculator import Calculator
from torch import Tensor, nn

from hip_ext.backbones.base import Backbone, BackboneSource, Evaluation
from hip_ext.backbones.borrowed import converted, outputs_of, read_module, untouched, usable_device
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.backbones.frameworks import require
from hip_ext.backbones.graphs import boxed_cell, directed_edges
from hip_ext.errors import BackboneError
from hip_ext.features import NodeFeatures, tensor_from_real_l2
from hip_ext.pairs import pair_graph
from hip_ext.structures import Structures

LONG_RANGE_CUTOFF, DISPERSION_DAMPING = 12.0, 2.0
"""Å; as SO3LR was published. The file in the wheel leaves both open."""

BOX = 2.0
"""so3krates-torch's box around open structures: so many long-range cutoffs per Å of extent."""

CUTOFFS = 1.0, 50.0
"""Å; a checkpoint may ask for any long-range cutoff, and pairs within it grow with its cube."""

NARROWEST = 0.01
"""Å; over less a dispersion energy is switched off in a step, and its derivatives are lost."""

YZX_TO_XYZ = [2, 0, 1]


class SO3LRBackbone(Backbone):
    """A loaded SO3LR model.

    Args:
        model: a `so3krates_torch` SO3LR or So3krates module; it is not changed.
        name: where it came from, for the checkpoint.
        long_range_cutoff: Å, for electrostatics and dispersion; by default the model's own, or 12 Å where it is open.
        dispersion_damping: width in Å over which dispersion is switched off below that cutoff; by default the model's
            own, or 2 Å where it is open.

    Raises:
        BackboneError: one of the two is out of range.
    """

    kind = "so3lr"
    framework = "SO3LR"
    requirement = "so3krates-torch>=0.2.1,<0.3"
    extra = "so3lr"
    parity = "o3"

    def __init__(
        self,
        model: Any,
        name: str = "in-memory",
        long_range_cutoff: float | None = None,
        dispersion_damping: float | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.cutoff = float(model.r_max)
        self.elements = _trained_elements(model)
        own = getattr(model, "r_max_lr", None), getattr(model, "dispersion_energy_cutoff_lr_damping", None)
        cutoff = (own[0] or LONG_RANGE_CUTOFF) if long_range_cutoff is None else long_range_cutoff
        damping = (own[1] or DISPERSION_DAMPING) if dispersion_damping is None else dispersion_damping
        self.long_range_cutoff = _within("long_range_cutoff", float(cutoff), *CUTOFFS)
        self.dispersion_damping = _within("dispersion_damping", float(damping), NARROWEST, self.long_range_cutoff)
        layers = len(model.euclidean_transformers)
        self.widths = (layers * int(model.num_features), layers, layers)
        options = {"long_range_cutoff": self.long_range_cutoff, "dispersion_damping": self.dispersion_damping}
        self.source = BackboneSource(self.kind, name, fingerprint(model), options)

    @classmethod
    def load(
        cls,
        source: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        long_range_cutoff: float | None = None,
        dispersion_damping: float | None = None,
    ) -> SO3LRBackbone:
        """Wraps a model.

        Args:
            source: `None` or "so3lr" for the weights inside the installed so3krates-torch wheel; a SO3LR or So3krates
                module; an open TorchkratesCalculator; or the path of a `.model` file. Files are pickles and run code
                when they are read: naming one here means trusting it.
            device: where the model shall be; by default where it is, or the CPU for a file.
            dtype: torch.float32 or torch.float64; by default the model's own. A module that is elsewhere or in another
                dtype is copied, never converted in place.
            long_range_cutoff: as in the constructor.
            dispersion_damping: as in the constructor.

        Raises:
            MissingDependencyError: so3krates-torch is not installed.
            BackboneError: there is no such model, or it is not one of so3krates-torch's with one energy.
        """
        require(cls.framework, cls.requirement, cls.extra)
        device = usable_device(device)
        model, name = _find_model(source, device)
        models = importlib.import_module("so3krates_torch.modules.models")
        if not isinstance(model, models.So3krates) or isinstance(model, models.MultiHeadSO3LR):
            raise BackboneError(f"expected a SO3LR or So3krates model, found a {type(model).__name__} ({name})")
        return cls(converted(model, device, dtype), name, long_range_cutoff, dispersion_damping)

    def prepare(self, structures: Structures) -> dict[str, Tensor]:
        """SO3LR's input dictionary without the long-range graph, which `energy` alone reads and adds."""
        self.check_elements(structures)
        structures, dtype = structures.to(self.device), self.dtype
        edges = directed_edges(pair_graph(structures, self.cutoff), structures, dtype)
        return {
            "positions": structures.positions.detach().to(dtype).clone(),
            "cell": boxed_cell(structures, BOX * self.long_range_cutoff).to(dtype),
            "pbc": structures.pbc,
            "atomic_numbers": structures.numbers,
            "node_attrs": nn.functional.one_hot(structures.numbers - 1, int(self.model.num_elements)).to(dtype),
            "edge_index": edges.index,
            "unit_shifts": edges.unit_shifts,
            "shifts": edges.shifts,
            "batch": structures.batch,
            "ptr": structures.ptr,
            "head": torch.zeros_like(structures.ptr[1:]),
            "total_charge": structures.charge.to(dtype),
            "total_spin": structures.unpaired.to(dtype) / 2,
        }

    def energy(self, inputs: dict[str, Tensor]) -> Tensor:
        """Total energy in eV, [B]."""
        with self.borrowed_model() as model:
            return model(self._with_long_range(inputs), compute_force=False)["energy"]

    def dipole(self, inputs: dict[str, Tensor]) -> Tensor:
        """Σ q_i x_i of the model's partial charges, e·Å, [B, 3].

        Raises:
            BackboneError: the model has no electrostatics, and so no charges that mean anything.
        """
        with self.borrowed_model() as model:
            dipole = model(self._with_long_range(inputs), compute_force=False).get("dipole")
        return super().dipole(inputs) if dipole is None else dipole

    def features(self, inputs: dict[str, Tensor]) -> NodeFeatures:
        """Invariants, vectors and tensors of all layers, without the energy heads and the long-range graph."""
        # The representation asks for a long-range graph without reading it; empty, it costs nothing.
        inputs = inputs | {"edge_index_lr": inputs["edge_index"][:, :0], "shifts_lr": inputs["shifts"][:0]}
        with self.borrowed_model() as model, outputs_of(model.euclidean_transformers) as layers:
            model.get_representation(inputs, compute_force=False)
        return _collect(layers)

    def energy_and_features(self, inputs: dict[str, Tensor]) -> tuple[Tensor, NodeFeatures]:
        """Total energy in eV, [B], and the variables of all layers, from one pass."""
        with self.borrowed_model() as model, outputs_of(model.euclidean_transformers) as layers:
            energy = model(self._with_long_range(inputs), compute_force=False)["energy"]
        return energy, _collect(layers)

    def evaluate(self, structures: Structures, *, stress: bool = False) -> Evaluation:
        """Energy, forces, optionally stress, and features from one pass."""
        inputs = self._with_long_range(self.prepare(structures))
        with torch.enable_grad(), self.borrowed_model() as model, outputs_of(model.euclidean_transformers) as layers:
            found = model(inputs, compute_force=True, compute_stress=stress)
        tensor = found["stress"].detach() if stress else None
        return Evaluation(found["energy"].detach(), found["forces"].detach(), tensor, _collect(layers).detach())

    def calculator(self) -> Calculator:
        """so3krates-torch's own ASE calculator around the same module."""
        from hip_ext.backbones.so3lr_calculator import SharedModelCalculator

        return SharedModelCalculator(self)

    @contextmanager
    def borrowed_model(self) -> Iterator[Any]:
        """The model with this backbone's long-range settings; as it was before, when the block ends."""
        # Under another default dtype so3krates-torch makes some of its constants in single precision.
        with untouched(self.model, default_dtype=self.dtype):
            self.model.r_max_lr = self.long_range_cutoff
            self.model.dispersion_energy_cutoff_lr_damping = self.dispersion_damping
            yield self.model

    def _with_long_range(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs and the graph of electrostatics and dispersion, where the model has these."""
        if not getattr(self.model, "use_lr", False):
            return dict(inputs)
        structures = Structures(
            numbers=inputs["atomic_numbers"],
            positions=inputs["positions"].detach(),
            cell=inputs["cell"],
            pbc=inputs["pbc"],
            charge=inputs["total_charge"],
            unpaired=2 * inputs["total_spin"],
            ptr=inputs["ptr"],
            batch=inputs["batch"],
        )
        edges = directed_edges(pair_graph(structures, self.long_range_cutoff), structures, self.dtype)
        return inputs | {"edge_index_lr": edges.index, "unit_shifts_lr": edges.unit_shifts, "shifts_lr": edges.shifts}


def _within(name: str, value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise BackboneError(f"{name} is {value:g} Å, expected {least:g} to {most:g} Å")
    return value


def _collect(layers: list[tuple[Tensor, Tensor]]) -> NodeFeatures:
    euclidean = torch.stack([variables for _, variables in layers], dim=1)
    return NodeFeatures(
        scalars=torch.cat([invariants for invariants, _ in layers], dim=1),
        vectors=euclidean[..., :3][..., YZX_TO_XYZ],
        tensors=tensor_from_real_l2(euclidean[..., 3:8]),
        parity="o3",
    )


def _trained_elements(model: Any) -> frozenset[int]:
    """The elements whose energy scale has moved from 1, where it starts; all that have an embedding if none has.

    SO3LR has embeddings for 118 elements but was trained on H, C, N, O, F, P, S and Cl: those of the others are random.
    """
    known = range(1, int(model.num_elements) + 1)
    scales = model.state_dict().get("atomic_energy_output_block.energy_scales.weight")
    moved = [] if scales is None else (scales.flatten() != 1.0).tolist()
    return frozenset(z for z, yes in zip(known, moved, strict=False) if yes) or frozenset(known)


def _find_model(source: Any, device: torch.device | None) -> tuple[Any, str]:
    """The module that `source` means, not yet checked, and a name for it; see `SO3LRBackbone.load`."""
    if source is None or source == "so3lr":
        folder = importlib.resources.files("so3krates_torch")
        # The wheel's own file, installed together with the code that reads it.
        with importlib.resources.as_file(folder / "pretrained/so3lr/so3lr.model") as path:
            return read_module(path, device, SO3LRBackbone.framework), "so3lr"
    if isinstance(source, nn.Module):
        return source, "in-memory"
    if isinstance(source, Calculator):
        models = getattr(source, "models", [])
        if len(models) != 1:
            found = f"{type(source).__name__} with {len(models)}"
            raise BackboneError(f"the so3lr backbone needs a calculator with one model, found {found}")
        return models[0], "calculator"
    if isinstance(source, (str, os.PathLike)):
        return read_module(source, device, SO3LRBackbone.framework), os.fspath(source)
    raise BackboneError(
        f"the so3lr backbone cannot be made from {type(source).__name__}: give None for the weights of the wheel, "
        "a module, a TorchkratesCalculator or a .model file"
    )

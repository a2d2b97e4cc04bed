"""fairchem's eSCN models, UMA and eSEN among them: the node embedding, with the parity that it lacks put in.

The embedding is [N, (lmax + 1)², C] with l = 1 in the order (x, y, z). It turns with the atoms but has no parity: its
l = 1 part mixes vectors with axial vectors. So the structures and their images at −x go through the network in one
batch, and the features are the part of the embedding that has parity (see `hip_ext.inversion`). Models with
ff_type="grid" turn with the atoms to about 3e-4 only, and so does every Hessian made of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ase.calculators.calculator import Calculator
from torch import Tensor

from hip_ext.backbones.base import Backbone, BackboneSource, Evaluation
from hip_ext.backbones.borrowed import usable_device
from hip_ext.backbones.fairchem_inputs import (
    atomic_data,
    charge_and_multiplicity,
    check_not_empty,
    inverted,
    predicted,
    with_inverted,
    wrapped,
)
from hip_ext.backbones.fairchem_models import (
    EXTRA,
    FRAMEWORK,
    REQUIREMENT,
    check_network,
    find_task,
    find_unit,
    fingerprint_of,
)
from hip_ext.errors import BackboneError
from hip_ext.features import NodeFeatures, Parity, tensor_from_e3nn_l2
from hip_ext.inversion import polar_part
from hip_ext.pairs import MIN_DISTANCE, pair_graph
from hip_ext.structures import Structures

SEED = 0
"""Of the roll angle that eSCN draws for every edge: the result depends on it by rounding only."""


class FairchemBackbone(Backbone):
    """A predict unit around an eSCN model.

    The model is looked up in the unit at every call, since fairchem may replace it there (merging experts, falling back
    from that). At its first prediction fairchem itself freezes the parameters and moves them to the unit's dtype and
    device; nothing else is changed. Device and dtype are those of the unit: `Module.to` does not reach it.

    Args:
        unit: an MLIPPredictUnit.
        name: where it came from, for the checkpoint.
        task: fairchem's task_name, such as "omol"; by default the only one that has an energy.
        parity: "o3" gives features with parity, from twice the atoms; "so3" gives the embedding as it is, and then
            `HessianModel` averages Hessians instead, in two passes one after the other that need half the memory.

    Raises:
        BackboneError: the model is not of the eSCN family or has lmax < 2, or the task or parity does not exist.
    """

    kind = "fairchem"
    framework, requirement, extra = FRAMEWORK, REQUIREMENT, EXTRA

    def __init__(self, unit: Any, name: str = "in-memory", task: str | None = None, parity: Parity = "o3") -> None:
        super().__init__()
        if parity not in ("o3", "so3"):
            raise BackboneError(f"parity is {parity!r}, expected 'o3' or 'so3'")
        check_network(unit)
        self.unit = unit
        self.task = find_task(unit, task)
        self.parity = parity
        network = unit.model.module.backbone
        self.cutoff = float(network.cutoff)
        self.elements = frozenset(range(1, min(int(network.max_num_elements), self._known_references(), 119)))
        channels = int(network.sphere_channels)
        self.widths = (channels, channels, channels)
        options = {"task": self.task, "parity": parity}
        self.source = BackboneSource(self.kind, name, fingerprint_of(unit), options)

    @classmethod
    def load(
        cls,
        source: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        task: str | None = None,
        parity: Parity = "o3",
    ) -> FairchemBackbone:
        """Wraps a model.

        Args:
            source: an MLIPPredictUnit; a FAIRChemCalculator; the path of an inference checkpoint; or a released model
                by the name that fairchem's `pretrained_mlip` has for it, such as "uma-s-1p2", which downloads it. Files
                are pickles and run code when they are read: naming one here means trusting it.
            device: where the model shall be; by default where it is, or the CPU for a file.
            dtype: torch.float32 or torch.float64; by default the unit's own, or float32 for a file. A unit that is
                elsewhere or in another dtype is copied, never converted in place.
            task: as in the constructor; by default that of a calculator.
            parity: as in the constructor.

        Raises:
            MissingDependencyError: fairchem is not installed.
            BackboneError: there is no such model, it may not be downloaded, or it cannot be used here.
        """
        device = usable_device(device)
        unit, name = find_unit(source, device, dtype)
        if isinstance(source, Calculator):
            task = task or getattr(source, "task_name", None)
        return cls(unit, name, task, parity)

    @property
    def model(self) -> Any:
        """The HydraModel that the unit predicts with now."""
        return self.unit.model.module

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type in which the unit predicts."""
        return self.unit.inference_settings.base_precision_dtype

    @property
    def device(self) -> torch.device:
        """Device on which the unit predicts."""
        return torch.device(self.unit.device)

    def prepare(self, structures: Structures) -> dict[str, Tensor]:
        """The tensors of fairchem's AtomicData: atoms wrapped into complete cells, charge and multiplicity."""
        check_not_empty(structures.num_systems, structures.num_atoms)
        self.check_elements(structures)
        pair_graph(structures, MIN_DISTANCE)  # fairchem drops the edge between two atoms on one spot; this refuses them
        pairs = zip(structures.charge.tolist(), structures.unpaired.tolist(), strict=True)
        electrons = [charge_and_multiplicity(*pair, self.task) for pair in pairs]
        positions, cells = wrapped(structures)
        structures = structures.to(self.device)
        return {
            "positions": positions.to(self.device, self.dtype),
            "cell": cells.to(self.device, self.dtype),
            "pbc": structures.pbc,
            "atomic_numbers": structures.numbers,
            "natoms": structures.ptr[1:] - structures.ptr[:-1],
            "batch": structures.batch,
            "charge": torch.tensor([charge for charge, _ in electrons], device=self.device),
            "spin": torch.tensor([spin for _, spin in electrons], device=self.device),
        }

    def energy(self, inputs: dict[str, Tensor]) -> Tensor:
        """Total energy of the task in eV, [B], in float64; of direct-force models too, whose forces are others.

        A lone atom gets what the network says, not the reference energy that fairchem looks up for it.

        Raises:
            BackboneError: the positions are to be differentiated, and the model was loaded with
                use_quaternion_wigner=False: second derivatives through fairchem's Euler angles are wrong, measured by
                13 % of the largest element of a Hessian.
        """
        self._make_ready(inputs)
        if inputs["positions"].requires_grad and not self.model.backbone.use_quaternion_wigner:
            raise BackboneError(
                "second derivatives through fairchem's Euler angles are wrong: load the model with "
                "use_quaternion_wigner=True"
            )
        data = atomic_data(inputs, self.task)
        with repeatable(self.device), _without_derivatives(self.model):
            found = self.model(data)
        task = self._energy_task()
        energy = task.normalizer.denorm(found[task.name]["energy"])
        return energy if task.element_references is None else task.element_references.undo_refs(data, energy)

    def features(self, inputs: dict[str, Tensor]) -> NodeFeatures:
        """The node embedding, l = 0, 1, 2, from one pass of the structures, with parity "o3" of them and those at −x.

        Without gradients this builds no graph, whatever forces and stress the model is set to give.
        """
        self._make_ready(inputs)
        if self.parity == "so3":
            return self._embedding(inputs)
        both = self._embedding(with_inverted(inputs))
        n = len(inputs["positions"])
        plain, of_inverted = (
            NodeFeatures(both.scalars[part], both.vectors[part], both.tensors[part], "so3")
            for part in (slice(0, n), slice(n, None))
        )
        return polar_part(plain, of_inverted)

    def evaluate(self, structures: Structures, *, stress: bool = False) -> Evaluation:
        """Energy, forces, optionally stress by the unit's own `predict`, whose pass gives the features as well.

        With parity "o3" the structures at −x take one more pass, without gradients. Energy and stress come in float64,
        in which fairchem sums them.

        Raises:
            BackboneError: the model has no forces or no stress, or fairchem refuses a structure, such as a lone atom
                for which it has no reference energy.
        """
        inputs = self.prepare(structures)
        with repeatable(self.device), self._overheard(inputs) as embeddings:
            found = self.predict(inputs)
        for name in ("forces", *(["stress"] if stress else [])):
            if name not in found:
                raise BackboneError(f"the task {self.task!r} of this fairchem model has no {name}")
        tensor = found["stress"].detach().view(-1, 3, 3) if stress else None
        with torch.no_grad():
            if not embeddings:
                features = self.features(inputs)
            else:
                features = _features_of(embeddings[0].detach())
                if self.parity == "o3":
                    features = polar_part(features, self._embedding(inverted(inputs)))
        return Evaluation(found["energy"].detach(), found["forces"].detach(), tensor, features)

    def predict(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the unit predicts for these inputs, by property.

        Raises:
            BackboneError: fairchem refuses them.
        """
        with torch.inference_mode(False), torch.enable_grad():
            data = atomic_data({name: x.detach().clone() for name, x in inputs.items()}, self.task)
            return predicted(self.unit, data)

    def calculator(self) -> Calculator:
        """A FAIRChemCalculator around the same unit, for the same task."""
        from hip_ext.backbones.fairchem_calculator import SharedUnitCalculator

        return SharedUnitCalculator(self)

    def _energy_task(self) -> Any:
        return next(task for task in self.unit.dataset_to_tasks[self.task] if task.property == "energy")

    def _known_references(self) -> int:
        """The first atomic number for which the energy task has no reference energy."""
        references = self._energy_task().element_references
        return len(references.element_references) if references is not None else 119

    def _make_ready(self, inputs: dict[str, Tensor]) -> None:
        """Lets fairchem prepare the model for these inputs as its own `predict` does: at first, and after a merge."""
        if self._accepts(inputs):
            return
        refusal = ""
        try:
            with repeatable(self.device):
                self.predict(inputs)
        except BackboneError as error:  # a lone atom or a merged model's forces, after the model has been made ready
            refusal = f" ({error})"
        if not self._accepts(inputs):
            raise BackboneError(
                f"fairchem cannot merge its model for this{refusal}: load it with inference_settings='batch'"
            )

    def _accepts(self, inputs: dict[str, Tensor]) -> bool:
        """Whether the model is ready for these inputs: a merged one is for one composition, charge and spin only."""
        if not self.unit.lazy_model_intialized:
            return False
        try:
            self.model.on_predict_check(atomic_data(inputs, self.task))
        except ValueError:
            return False
        return True

    def _embedding(self, inputs: dict[str, Tensor]) -> NodeFeatures:
        with repeatable(self.device), _without_derivatives(self.model):
            return _features_of(self.model.backbone(atomic_data(inputs, self.task))["node_embedding"])

    @contextmanager
    def _overheard(self, inputs: dict[str, Tensor]) -> Iterator[list[Tensor]]:
        """Collects the node embeddings of a prediction in this block; none where they would not do.

        That is where fairchem is about to exchange its model, has compiled it, or computes in TF32, in which the passes
        of both copies would not fit together.
        """
        settings = self.unit.inference_settings
        found: list[Tensor] = []
        if settings.compile or settings.tf32 or not self._accepts(inputs):
            yield found
            return
        hook = self.model.backbone.register_forward_hook(lambda _, __, out: found.append(out["node_embedding"]))
        try:
            yield found
        finally:
            hook.remove()


def _features_of(embedding: Tensor) -> NodeFeatures:
    """Features without parity from [N, (lmax + 1)², C]."""
    channels_first = embedding.transpose(1, 2)
    tensors = tensor_from_e3nn_l2(channels_first[:, :, 4:9])
    return NodeFeatures(channels_first[:, :, 0], channels_first[:, :, 1:4], tensors, "so3")


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """The same random numbers every time, and those of the user as they were when the block ends."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(SEED)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(SEED)
        yield


@contextmanager
def _without_derivatives(model: Any) -> Iterator[None]:
    """The model gives no forces and leaves gradients on or off as they are; otherwise it switches them on by itself."""
    found = (vars(module).get("regress_config") for module in model.modules())
    configs = list({id(config): config for config in found if config is not None}.values())
    before = [dict(vars(config)) for config in configs]
    try:
        for config in configs:
            config.forces = config.stress = config.hessian = False
        yield
    finally:
        for config, values in zip(configs, before, strict=True):
            vars(config).update(values)

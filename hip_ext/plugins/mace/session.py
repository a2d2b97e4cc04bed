"""MACE's own training run, `mace.cli.run_train.run`, with a Hessian head on the model and its error in the loss.

MACE has no registry for heads and losses: `run` calls functions that it finds by name among the globals of its module.
Here it is run with other globals, in which some of these names mean something else. Nothing in MACE is changed, in
memory or on disk.

    get_dataset_from_xyz, DataLoader   labels are read, checked and batched
    configure_model, get_loss_fn, …    the model gets the head, the loss its error
    get_params_options, inject_LoRAs   the optimiser gets the head's parameters, LoRA the energy model's layers alone
    deepcopy                           what is saved is the energy model alone; the head goes into its own checkpoint
"""

from __future__ import annotations

import copy
import logging
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import nn
from torch.utils.data import DataLoader

from hip_ext.backbones.borrowed import read_module
from hip_ext.backbones.mace import MACEBackbone
from hip_ext.backbones.mace_models import find_model, import_mace, unpickling_allowed
from hip_ext.errors import BackboneError, ConfigError, DataError
from hip_ext.plugins.mace.checkpoints import checkpoint_handler
from hip_ext.plugins.mace.head import fitted_head
from hip_ext.plugins.mace.labels import check_configurations, label_loader, labelled_indices
from hip_ext.plugins.mace.loss import HessianLoss, JointLoss
from hip_ext.plugins.mace.model import FrozenMACE, JointMACE
from hip_ext.plugins.mace.overlay import Overlay, with_globals
from hip_ext.plugins.mace.release import release

HOOKS = (
    "update_keyspec_from_kwargs",
    "get_dataset_from_xyz",
    "get_loss_fn",
    "get_avg_num_neighbors",
    "get_swa",
    "configure_model",
    "inject_LoRAs",
    "get_params_options",
    "deepcopy",
    "extract_config_mace_model",
)
"""Names of MACE that mean a method of `Session` during a run."""

RELEASED = ("mace_mp", "mace_off", "mace_omol", "mace_polar")
"""MACE's functions that unpickle its released models."""

OUTPUTS = ("energy", "forces", "virials", "stress", "dipoles", "polarizabilities")
"""What MACE can be asked to compute."""


class Session:
    """One training run and what its parts have to know of each other.

    Attributes:
        args: options of the run.
        training: whether the first training step may have been made.
        stages: for each model that the run will save, whether it is of MACE's second stage.
        released: how many of them it has saved; none in a dry run.
    """

    def __init__(self, args: Namespace) -> None:
        self.args = args
        self.training = False
        self.stages = [False]
        self.released = 0
        self.mace = import_mace("mace.cli.run_train")
        self._loaders: list[DataLoader[Any]] = []
        self._validation: list[DataLoader[Any]] = []
        self._foundation: Any = None
        self._labels = 0
        self._elements: list[int] = []

    def run(self) -> None:
        """MACE's `run` with the globals of its module, some of them replaced by methods of this class."""
        names = {name: getattr(self, name) for name in HOOKS}
        names |= {name: unpickling_allowed()(getattr(self.mace, name)) for name in RELEASED}
        names["torch"] = Overlay(torch, load=self.load)
        names["tools"] = Overlay(self.mace.tools, train=self.train, CheckpointHandler=checkpoint_handler)
        names["torch_geometric"] = SimpleNamespace(dataloader=SimpleNamespace(DataLoader=self.loader))
        with_globals(self.mace.run, names)(self.args)

    def load(self, path: str, map_location: Any) -> nn.Module:
        """The foundation model; the only pickle that is read, and a file that the user named."""
        self._foundation = read_module(path, torch.device(map_location), "MACE")
        return self._foundation

    def update_keyspec_from_kwargs(self, keyspec: Any, options: dict[str, Any]) -> Any:
        """Where MACE looks for labels in a file."""
        self.mace.update_keyspec_from_kwargs(keyspec, options)
        return keyspec.update(info_keys={"hessian": options.get("hessian_key", self.args.hessian_key)})

    def get_dataset_from_xyz(self, **options: Any) -> Any:
        """Structures from xyz files, with checked labels."""
        sets, energies = self.mace.get_dataset_from_xyz(**options)
        check_configurations(sets.train, "training")
        check_configurations(sets.valid, "validation")
        for name, configurations in sets.tests:
            check_configurations(configurations, f"test set {name},")
        if self._foundation is not None and self.args.foundation_model_elements:
            known = set(self._foundation.atomic_numbers.tolist())
            found = {int(z) for part in (sets.train, sets.valid) for one in part for z in one.atomic_numbers}
            check_elements(found, known)
        return sets, energies

    def loader(self, dataset: Any, **options: Any) -> DataLoader[Any]:
        """A loader of one of MACE's data sets."""
        self._loaders.append(label_loader(dataset, **options))
        return self._loaders[-1]

    def get_avg_num_neighbors(self, head_configs: Any, args: Namespace, train_loader: Any, device: Any) -> Any:
        """MACE's first look at the training data."""
        if len(train_loader) == 0:
            count = len(train_loader.dataset)
            raise DataError(f"--batch_size {args.batch_size} is larger than the {count} training structures")
        return self.mace.get_avg_num_neighbors(head_configs, args, train_loader, device)

    def get_loss_fn(self, *args: Any) -> nn.Module:
        """The loss of the first stage."""
        return self._with_hessian(self.mace.get_loss_fn(*args))

    def get_swa(self, *args: Any) -> Any:
        """MACE's second stage."""
        swa, self.stages = self.mace.get_swa(*args)
        swa.loss_fn = self._with_hessian(swa.loss_fn)
        return swa, self.stages

    def configure_model(
        self,
        args: Namespace,
        train_loader: Any,
        energies: Any,
        foundation: Any = None,
        heads: Any = None,
        z_table: Any = None,
        head_configs: Any = None,
    ) -> tuple[JointMACE, dict[str, bool]]:
        """The model with its head, and what MACE shall compute; every label has been checked when it returns."""
        labelled = self._check_data(train_loader, heads, z_table, head_configs)
        if args.freeze_backbone:
            if foundation.atomic_numbers.tolist() != z_table.zs:
                raise BackboneError("the elements of this foundation model are not in order: it cannot be used frozen")
            model, wanted = foundation.to(torch.get_default_dtype()), dict.fromkeys(OUTPUTS, False)
        else:
            model, wanted = self.mace.configure_model(
                args, train_loader, energies, foundation, heads, z_table, head_configs
            )
        backbone = MACEBackbone(find_model(model.to(args.device), None)[0])
        dataset = train_loader.dataset
        head = fitted_head(backbone, args.hessian_head, dataset, labelled, args.batch_size, args.seed)
        columns = torch.stack([dataset[index].node_attrs.amax(dim=0) for index in labelled]).amax(dim=0)
        self._labels, self._elements = len(labelled), backbone.model.atomic_numbers.cpu()[columns > 0].tolist()
        logging.info(f"Hessian head: {sum(p.numel() for p in head.parameters())} parameters, {len(labelled)} labels")
        return (FrozenMACE if args.freeze_backbone else JointMACE)(backbone, head), wanted

    def inject_LoRAs(self, model: JointMACE, **options: Any) -> JointMACE:
        """LoRA for the energy model; given the whole, it would freeze the head."""
        self.mace.inject_LoRAs(model.energy_model, **options)
        return model

    def get_params_options(self, args: Namespace, model: JointMACE) -> dict[str, Any]:
        """MACE's groups of parameters, and one for the head; it would leave out what it does not know."""
        options: dict[str, Any] = self.mace.get_params_options(args, model.energy_model)
        head = {
            "name": "hessian_head",
            "params": list(model.head.parameters()),
            "weight_decay": args.weight_decay,
            "lr": args.hessian_lr,
        }
        options["params"] = [head] if args.freeze_backbone else [*options["params"], head]
        return options

    def train(self, model: JointMACE, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        """MACE's loop over epochs, after a last look at what it is given."""
        options["checkpoint_handler"].check()
        check_optimiser(optimizer, model.head)
        self.training = True
        self.mace.tools.train(model=model, optimizer=optimizer, **options)

    def deepcopy(self, value: Any) -> Any:
        """MACE copies a model in order to save it: it gets the energy model, and the head is written."""
        if not isinstance(value, JointMACE):
            return copy.deepcopy(value)
        stage_two = self.stages[self.released]
        self.released += 1
        return release(value, self.args, stage_two, self._elements, self._labels, self._validation)

    def extract_config_mace_model(self, model: JointMACE) -> dict[str, Any]:
        """What MACE notes down about a model."""
        return self.mace.extract_config_mace_model(model.energy_model)

    def _with_hessian(self, loss: nn.Module) -> nn.Module:
        weight = self.args.hessian_weight
        return HessianLoss(weight) if self.args.freeze_backbone else JointLoss(loss, weight)

    def _check_data(self, train_loader: Any, heads: Any, z_table: Any, head_configs: Any) -> list[int]:
        """Checks all labels, those of the tests included, and returns which training structures have one."""
        labelled = labelled_indices(train_loader.dataset, "training")
        if not labelled:
            raise DataError(
                f"none of {len(train_loader.dataset)} training structures has a Hessian: xyz files need it as info "
                f"{self.args.hessian_key!r} (see --hessian_key), HDF5 files as the property 'hessian'"
            )
        self._validation = self._loaders[self._loaders.index(train_loader) + 1 :]
        for loader in self._validation:
            labelled_indices(loader.dataset, "validation")
        for config in (config for config in head_configs if config.test_dir is not None):
            for path in self.mace.get_files_with_suffix(config.test_dir, "_test.h5"):
                tests = self.mace.data.HDF5Dataset(path, r_max=self.args.r_max, z_table=z_table, heads=heads)
                labelled_indices(tests, f"{path}:")
        return labelled


def check_elements(found: set[int], known: set[int]) -> None:
    """Raises BackboneError for elements that the foundation model does not know."""
    if found - known:
        unknown, all_known = (", ".join(chemical_symbols[z] for z in sorted(zs)) for zs in (found - known, known))
        raise BackboneError(f"the foundation model does not know {unknown}; it knows {all_known}")


def check_optimiser(optimiser: torch.optim.Optimizer, head: nn.Module) -> None:
    """Raises ConfigError if a parameter of the head would stay as it is."""
    moving = {id(p) for group in optimiser.param_groups if group["lr"] > 0 for p in group["params"] if p.requires_grad}
    left = [name for name, parameter in head.named_parameters() if id(parameter) not in moving]
    if left:
        raise ConfigError(
            f"the optimiser would not change {len(left)} parameters of the Hessian head, {left[0]!r} among them: give "
            "it a learning rate above zero"
        )

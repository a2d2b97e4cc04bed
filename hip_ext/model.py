"""A backbone with a Hessian head: how users get one, run it, and keep it.

model = attach_head("mace", source="my.model")      # an untrained head on a model of yours
model = from_pretrained("hip-so3lr-organic")         # a trained head and the backbone that it belongs to
model = from_pretrained("owner/name")                # the same from the Hugging Face Hub
prediction = model.energy_forces_hessian(atoms)      # one structure or many
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ase import Atoms
from torch import Tensor, nn

from hip_ext.backbones import Backbone, load_backbone
from hip_ext.backbones.base import BackboneSource
from hip_ext.blocks import HessianBlocks
from hip_ext.checkpoint import BackboneRecord, Tuning, new_head, read_config, read_head
from hip_ext.checkpoint.finding import find_checkpoint
from hip_ext.checkpoint.saving import save_model
from hip_ext.checkpoint.tuning import tuned_backbone
from hip_ext.checkpoint.upgrades import name_means
from hip_ext.errors import BackboneError, CheckpointError, HipExtError
from hip_ext.head import HeadConfig, HessianHead
from hip_ext.hub import HubOptions, repository_and_revision
from hip_ext.inversion import predicted_blocks
from hip_ext.sanity import checked_blocks
from hip_ext.structures import Structures

if TYPE_CHECKING:
    from hip_ext.refinement import Refinement


@dataclass(frozen=True)
class Prediction:
    """What a model says about a batch of B structures with N atoms in all.

    Attributes:
        energy: eV, [B]; the backbone's own.
        forces: eV/Å, [N, 3]; the backbone's own.
        stress: eV/Å³, [B, 3, 3]; the backbone's own, or None where it was not asked for.
        hessian: blocks in eV/Å².
    """

    energy: Tensor
    forces: Tensor
    stress: Tensor | None
    hessian: HessianBlocks


class HessianModel(nn.Module):
    """A backbone and a head.

    Args:
        backbone: gives energies, forces and features; it is not changed.
        head: made for features of the backbone's widths.
        training: how the head was taught, for the checkpoint.
        metrics: its measured errors, for the checkpoint.
        elements: atomic numbers that the head was taught; empty if it was not.
        tuning: what was changed in the backbone, where it was trained together with the head.
        license: of the weights in the checkpoint, as the Hub's identifier; by default that of `save_pretrained`.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: HessianHead,
        training: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        elements: Sequence[int] = (),
        tuning: Tuning | None = None,
        license: str | None = None,
    ) -> None:
        super().__init__()
        if head.widths != tuple(backbone.widths):
            raise CheckpointError(f"the head expects {head.widths} features, the backbone gives {backbone.widths}")
        self.backbone = backbone
        self.head = head
        self.training_record = dict(training or {})
        self.metrics = dict(metrics or {})
        self.elements = sorted(elements)
        self.tuning = tuning
        self.license = license

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of backbone and head."""
        return self.backbone.dtype

    @property
    def device(self) -> torch.device:
        """Device of backbone and head."""
        return self.backbone.device

    def structures(self, atoms: Atoms | Sequence[Atoms] | Structures) -> Structures:
        """The input as tensors on the model's device, checked; see `Structures.from_ase` for what is refused."""
        if isinstance(atoms, Structures):
            return atoms.to(self.device, self.dtype)
        return Structures.from_ase(atoms, dtype=self.dtype, device=self.device)

    @torch.no_grad()
    def hessian(self, atoms: Atoms | Sequence[Atoms] | Structures) -> HessianBlocks:
        """The Hessian alone: one forward pass of the backbone, two if it has no parity, and no backward pass.

        Raises:
            StructureError: a structure cannot be used, or its Hessian is none (see `hip_ext.sanity`).
            BackboneError: the backbone does not know an element.
        """
        structures = self.structures(atoms)
        features = self.backbone.features(self.backbone.prepare(structures))
        return checked_blocks(predicted_blocks(self.head, self.backbone, features, structures), structures)

    def refined_hessian(self, atoms: Atoms, products: int | None = None, **options: Any) -> Refinement:
        """The Hessian of one structure, corrected by exact products along its lowest modes.

        Args:
            atoms: one structure.
            products: how many; by default as many as the lowest mode needs.
            options: `modes`, `tolerance` and `block` of `hip_ext.refinement.refine`.

        Raises:
            ConfigError, StructureError, BackboneError: as `hip_ext.refinement.refine`.
        """
        from hip_ext.refinement import refine

        return refine(self, atoms, products, **options)

    def energy_forces_hessian(self, atoms: Atoms | Sequence[Atoms] | Structures, *, stress: bool = False) -> Prediction:
        """Energy and forces of the backbone and the Hessian, from one pass of it where its features have parity.

        Raises:
            StructureError: a structure cannot be used, or its Hessian is none (see `hip_ext.sanity`).
            BackboneError: the backbone does not know an element, or has no stress.
        """
        structures = self.structures(atoms)
        found = self.backbone.evaluate(structures, stress=stress)
        with torch.no_grad():
            blocks = predicted_blocks(self.head, self.backbone, found.features, structures)
        return Prediction(found.energy, found.forces, found.stress, checked_blocks(blocks, structures))

    def save_pretrained(self, folder: str | Path, *, whole_backbone: bool = False, license: str | None = None) -> None:
        """Writes a checkpoint: config.json, model.safetensors and a model card.

        Nothing of the backbone is in it, unless that was trained: then backbone.safetensors has its changed tensors.

        Args:
            folder: new, empty, or that of an older checkpoint, which is replaced as a whole.
            whole_backbone: write all tensors of the backbone. Only for one whose licence allows that.
            license: of what is written, as the Hub's identifier (mit, apache-2.0, …). By default that of the
                checkpoint which the model comes from; "mit" for a head of one's own, "other" where changed tensors of a
                backbone come with it. A whole backbone goes nowhere without one.

        Raises:
            CheckpointError: the folder holds something else, or cannot be written; a licence is missing; or weights are
                not finite.
        """
        save_model(self, folder, whole_backbone=whole_backbone, license=license)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        private: bool | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        whole_backbone: bool = False,
        license: str | None = None,
    ) -> str:
        """Writes a checkpoint to a repository on the Hugging Face Hub, in one commit, and returns that commit.

        `from_pretrained(repo_id, revision=commit)` loads exactly what was pushed. A repository is made where there is
        none; one that holds an older checkpoint gets a new commit, one that holds something else is left alone.

        Args:
            repo_id: owner/name.
            revision: branch to write to; by default the main one.
            token: of a user who may write there; by default what `hf auth login` has stored, or HF_TOKEN.
            private: of a repository that is made; by default what its owner has chosen.
            commit_message: a line about the commit.
            create_pr: propose the commit, to a repository of somebody else.
            whole_backbone: as in `save_pretrained`.
            license: as in `save_pretrained`.

        Raises:
            CheckpointError: as `save_pretrained`.
            HubError: the repository holds something else, may not be written, or cannot be reached.
        """
        from hip_ext.hub.upload import push_folder

        repository_and_revision(repo_id, revision)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "checkpoint"
            save_model(self, folder, whole_backbone=whole_backbone, license=license, name=repo_id)
            return push_folder(
                folder,
                repo_id,
                revision=revision,
                token=token,
                private=private,
                message=commit_message,
                create_pr=create_pr,
            )


def attach_head(
    backbone: str | Backbone,
    config: HeadConfig | None = None,
    *,
    source: Any = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> HessianModel:
    """Puts an untrained head on a backbone.

    Args:
        backbone: a registry name such as "mace", or a loaded backbone.
        config: hyper-parameters of the head.
        source: which model of that kind: a name, a file, a loaded module or calculator. A file in a framework's own
            format may be a pickle, which runs code when it is read: name only files that you trust.
        seed: of the head's initial weights.
        device: as in `load_backbone`, like the rest of what loads a backbone by name.
        dtype: as in `load_backbone`.
        options: further options of the backbone, such as `head="…"` of a multi-head MACE.

    Raises:
        BackboneError: the backbone is unknown, cannot be loaded, or is loaded already and cannot take these arguments.
        MissingDependencyError: its framework is not installed.
    """
    if isinstance(backbone, str):
        backbone = load_backbone(backbone, source, device=device, dtype=dtype, **options)
    elif not isinstance(backbone, Backbone):
        found = type(backbone).__name__
        raise BackboneError(
            f"a registry name or a Backbone expected, found {found}: give a model as attach_head('mace', source=model)"
        )
    elif options or any(given is not None for given in (source, device, dtype)):
        raise BackboneError("source, device, dtype and options are for loading: this backbone is loaded already")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = new_head(backbone.widths, config)
    return HessianModel(backbone, head.to(device=backbone.device, dtype=backbone.dtype).eval())


def from_pretrained(
    name: str | Path,
    *,
    backbone: Backbone | None = None,
    trust_source: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> HessianModel:
    """Loads a trained head together with the backbone that it was made for.

    Args:
        name: a folder; the name of a checkpoint that ships with the package or is in the catalogue; or a repository on
            the Hugging Face Hub, "owner/name" or "owner/name@revision". What is a folder is never looked for elsewhere.
        backbone: a loaded backbone to use, whose device and dtype the head follows; by default the one that the
            checkpoint names is loaded. It is not changed: where it was trained together with the head, a copy is.
        trust_source: allow a backbone that the checkpoint names by a file path to be read from that file, which is
            a pickle and can run code.
        device: of a backbone that is loaded here; by default where it is.
        dtype: of a backbone that is loaded here; by default the checkpoint's.
        revision: branch, tag or commit of a repository; by default its newest commit.
        token: for a repository that is private or gated; by default what `hf auth login` has stored, or HF_TOKEN.
        cache_dir: where the Hub's files are kept; by default the Hub's own cache (HF_HOME, HF_HUB_CACHE).
        local_files_only: use what is in that cache, and no network.

    Raises:
        HubError: the repository cannot be found or fetched.
        CheckpointError: there is no such checkpoint, it is damaged, or the backbone is not the one it was made for.
        BackboneError: the backbone cannot be loaded, or is loaded already and cannot take device or dtype.
        MissingDependencyError: its framework is not installed.
    """
    if backbone is not None and (device is not None or dtype is not None):
        raise BackboneError("device and dtype are for loading a backbone: this one is loaded already")
    folder = find_checkpoint(name, HubOptions(revision, token, cache_dir, local_files_only))
    config = read_config(folder)
    head = read_head(folder, config)
    record = config.backbone
    ours = backbone is None
    if backbone is None:
        backbone = _load_recorded(folder, record, trust_source, device, dtype or getattr(torch, config.dtype))
    _check_backbone(folder, record, backbone)
    tuning = None
    if record.tuned is not None:
        backbone, changed = tuned_backbone(backbone, folder, config, in_place=ours)
        base = BackboneSource(record.kind, record.name, record.fingerprint, record.options)
        tuning = Tuning(base, changed)
    head = head.to(device=backbone.device, dtype=backbone.dtype)
    return HessianModel(backbone, head, config.training, config.metrics, config.elements, tuning, config.license)


def _check_backbone(folder: Path, record: BackboneRecord, backbone: Backbone) -> None:
    """Whether this is the backbone that a head was made for, before or after it was tuned."""
    found = backbone.source
    known = {record.fingerprint} | ({record.tuned.fingerprint} if record.tuned else set())
    anything = record.tuned is not None and record.tuned.whole
    if found.kind != record.kind or (found.fingerprint not in known and not anything):
        raise CheckpointError(
            f"{folder} was made for {record.kind} {record.name!r} (fingerprint {record.fingerprint[:12]}), "
            f"found {found.kind} {found.name!r} ({found.fingerprint[:12]})"
        )
    if dict(found.options) != record.options:
        raise CheckpointError(
            f"{folder} was made with {str(record.options)[:300]}, the backbone has {dict(found.options)}"
        )


def _obtained(folder: Path) -> str:
    """What the catalogue says about where the backbone of a head comes from."""
    from hip_ext.catalogue import heads

    entries = [head.entry for head in heads(own=False).values() if head.folder == folder]
    return f"; {entries[0].obtain}" if entries and entries[0].obtain else ""


def _load_recorded(
    folder: Path,
    record: BackboneRecord,
    trust_source: bool,
    device: torch.device | str | None,
    dtype: torch.dtype,
) -> Backbone:
    """The backbone that a checkpoint names; a name that is a path is a pickle that somebody else chose."""
    # What the name means is looked up here; the config can make a word a file, which needs trust, but not the reverse.
    meaning = "file" if record.source == "file" else name_means(record.name)
    if meaning == "memory" or (meaning == "file" and not trust_source):
        trust = ", or trust_source=True (--trust-source) to read that file, which can run code"
        trust = trust if meaning == "file" else ""
        raise CheckpointError(
            f"{folder} belongs to {record.kind} {record.name!r}, which is not a released model: "
            f"pass backbone=load_backbone({record.kind!r}, ...){trust}{_obtained(folder)}"
        )
    try:
        return load_backbone(record.kind, record.name, device=device, dtype=dtype, **record.options)
    except HipExtError:
        raise
    except (TypeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{folder} has backbone options that cannot be used: {str(record.options)[:300]} ({error})"
        ) from None

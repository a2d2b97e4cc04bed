"""The head: from a backbone's node features to the blocks of a Hessian.

    features ── mix ──> node state ── messages ──> node state ── pairs ──> B_ij (two-body)
                                                                  └──> g_ki, λ_k ──> Σ_k λ_k g_ki g_kjᵀ (three-body)
    H_ij = u(r_ij) s(r_ij) B_ij + Σ_k λ_k g_ki g_kjᵀ,    H_ii = −Σ_j H_ij

Messages, two-body blocks and latent coordinates all reach to one cutoff r; u is the envelope that takes them smoothly
to zero there, s the usual block size at a distance. Two atoms feel each other through a third up to 2r: that is the
reach of the Hessian. Symmetry under exchange, rotation and inversion, permutation, and the translation rule hold
exactly, whatever the weights.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn.functional import linear

from hip_ext.blocks import HessianBlocks
from hip_ext.edges import Edges
from hip_ext.errors import ConfigError
from hip_ext.features import NodeFeatures, Widths
from hip_ext.latent import curvature_blocks, find_triplets, neighbourhoods, torque_free
from hip_ext.messages import MessageLayer, NodeState
from hip_ext.pairs import pair_graph
from hip_ext.radial import BlockScale, GaussianBasis, envelope
from hip_ext.readout import LatentGradients, PairBlocks, PairEncoder
from hip_ext.structures import Structures
from hip_ext.suggest import all_problems
from hip_ext.sum_rules import with_acoustic_diagonal, without_remainder

OUTLIER = 8.0
"""No scalar feature counts for more standard deviations than this. Those of a rare atom (in H₂, between two others) can
lie 45 from the mean, and the products of the messages would raise that to the fourth power."""


class HeadConfig(BaseModel):
    """Hyper-parameters of a `HessianHead`; stored as they are in a checkpoint's config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scalars: int = Field(128, ge=1, description="invariant features per atom inside the head")
    channels: int = Field(32, ge=1, description="vectors and tensors per atom inside the head")
    layers: int = Field(1, ge=0, description="rounds of messages")
    cutoff: float = Field(
        5.0, gt=0.5, le=50, description="reach of messages and latent coordinates; blocks reach twice as far, Å"
    )
    spacing: float = Field(0.16, gt=0, le=0.2, description="between radial basis functions, Å")
    hidden: int = Field(128, ge=1, description="invariant features per pair")
    pair_channels: int = Field(16, ge=1, description="vectors and tensors per atom that enter a pair")
    coordinates: int = Field(48, ge=1, description="latent internal coordinates per atom")
    mean_neighbours: float = Field(15.0, gt=0, description="usual number of atoms within the cutoff")

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> HeadConfig:
        """Validates a dictionary; an unknown key or a value out of range is a one-line ConfigError."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"head config: {all_problems(error, cls)}") from None


class HessianHead(nn.Module):
    """Predicts the Hessian of a batch of structures from node features.

    Args:
        widths: channels (C0, C1, C2) of the features.
        config: hyper-parameters.
    """

    scalar_mean: Tensor
    scalar_scale: Tensor
    vector_scale: Tensor
    tensor_scale: Tensor

    def __init__(self, widths: Widths, config: HeadConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or HeadConfig()
        self.widths = tuple(widths)
        s, c = config.scalars, config.channels
        self.register_buffer("scalar_mean", torch.zeros(widths[0]))
        self.register_buffer("scalar_scale", torch.ones(widths[0]))
        self.register_buffer("vector_scale", torch.ones(widths[1]))
        self.register_buffer("tensor_scale", torch.ones(widths[2]))
        self.radial = GaussianBasis(0.5, config.cutoff, config.spacing)
        self.mix_scalars = nn.Sequential(nn.Linear(widths[0], s), nn.LayerNorm(s))
        self.mix_vectors = nn.Linear(widths[1], c, bias=False)
        self.mix_tensors = nn.Linear(widths[2], c, bias=False)
        self.messages = nn.ModuleList(
            MessageLayer(s, c, self.radial.size, config.mean_neighbours) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(s)
        self.encode = PairEncoder(s, c, config.hidden, config.pair_channels, self.radial.size)
        self.blocks = PairBlocks(config.hidden, config.pair_channels)
        self.gradients = LatentGradients(config.hidden, config.pair_channels, config.coordinates)
        self.curvature = nn.Linear(s, config.coordinates)
        self.block_scale = BlockScale(config.cutoff)

    def forward(self, features: NodeFeatures, structures: Structures) -> HessianBlocks:
        """Predicts the blocks of every structure.

        Args:
            features: node features of the whole batch, in the head's dtype and device.
            structures: the same atoms; positions in the head's dtype.

        Returns:
            Blocks in eV/Å² for which the translation rule holds exactly.
        """
        cutoff = self.config.cutoff
        graph = pair_graph(structures, 2 * cutoff)
        near, rows = graph.within(cutoff)
        fade = envelope(near.distance, cutoff)
        edges = Edges.of(near, self.radial(near.distance), fade, structures.num_atoms)
        state = self._normalised(features)
        for layer in self.messages:
            state = layer(state, edges)
        state = NodeState(self.norm(state.scalars), state.vectors, state.tensors)
        two_body, gradients = self._read(state, edges)
        weight = fade * self.block_scale(near.distance)
        two_body = without_remainder(two_body * weight[:, None, None], weight, near, structures.ptr)
        triplets = find_triplets(graph, edges.centre, edges.neighbour, edges.shift, structures.num_atoms)
        gradients = torque_free(neighbourhoods(gradients, triplets), edges, triplets)
        pair = curvature_blocks(gradients, self.curvature(state.scalars), triplets, len(graph.first))
        return with_acoustic_diagonal(pair.index_add(0, rows, two_body), graph, structures.ptr)

    @torch.no_grad()
    def fit_normalisation(self, features: NodeFeatures) -> None:
        """Sets the scale of every feature channel from a sample of atoms, so that each enters with unit variance."""
        self.scalar_mean.copy_(features.scalars.mean(0))
        self.scalar_scale.copy_(_inverse(features.scalars.std(0)))
        self.vector_scale.copy_(_inverse(features.vectors.pow(2).mean((0, 2)).sqrt()))
        self.tensor_scale.copy_(_inverse(features.tensors.pow(2).mean((0, 2, 3)).sqrt()))

    def _read(self, state: NodeState, edges: Edges) -> tuple[Tensor, Tensor]:
        """Two-body blocks in units of the usual size, [P, 3, 3], and the g of every edge, [3, E, coordinates]."""
        # The pair state, the widest there is, ends with this function: what follows needs its memory.
        pairs = self.encode(state, edges)
        return self.blocks(pairs, edges), self.gradients(pairs, edges)

    def _normalised(self, features: NodeFeatures) -> NodeState:
        scalars = OUTLIER * torch.tanh((features.scalars - self.scalar_mean) * (self.scalar_scale / OUTLIER))
        vectors = linear(features.vectors.permute(2, 0, 1), self.mix_vectors.weight * self.vector_scale)
        tensors = linear(features.tensors.permute(2, 3, 0, 1), self.mix_tensors.weight * self.tensor_scale)
        return NodeState(self.mix_scalars(scalars), vectors, tensors)


def _inverse(scale: Tensor) -> Tensor:
    """1/scale, and 0 for channels that never vary."""
    return torch.where(scale > 1e-6, 1.0 / scale.clamp(min=1e-6), torch.zeros_like(scale))

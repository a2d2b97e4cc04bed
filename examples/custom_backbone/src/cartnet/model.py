"""The potential: message passing on scalars s, vectors v and symmetric traceless matrices t, without spherical tensors.

A layer sums over neighbours j of atom i, with learned radial weights w(r) that vanish at the cutoff and r̂ from i to j,

    s ← s + f(s, Σ w s_j, |v|², |t|²),   v ← v + Σ (w s_j r̂ + w v_j),   t ← t + Σ (w s_j (r̂r̂ᵀ − 1/3) + w t_j),

each on C channels. The energy of an atom is a function of its last s. Nothing here knows of hip-ext.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Features = tuple[Tensor, Tensor, Tensor]
"""s [N, C], v [N, C, 3], t [N, C, 3, 3]."""

RADIAL = 8
"""Gaussians of the distance."""

DOUBLE = {"dtype": torch.float64}
"""Said at every layer, so that the weights do not depend on what torch's default is where a model is made."""


class CartNet(nn.Module):
    """The potential of this module's docstring, in float64.

    Args:
        elements: atomic numbers that it knows.
        channels: C.
        layers: how many.
        cutoff: Å.
        seed: of the weights; they are random, and nobody has trained them.
    """

    def __init__(
        self,
        elements: tuple[int, ...] = (1, 6, 7, 8),
        channels: int = 8,
        layers: int = 2,
        cutoff: float = 4.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.elements, self.channels, self.cutoff = elements, channels, cutoff
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(len(elements), channels, **DOUBLE)
            self.layers = nn.ModuleList(Layer(channels) for _ in range(layers))
            self.energy = mlp(channels, channels, 1)
        self.register_buffer("centres", torch.linspace(0.5, cutoff, RADIAL, **DOUBLE))

    def forward(self, species: Tensor, edges: Tensor, vector: Tensor) -> Tensor:
        """Energies of N atoms, eV [N].

        Args:
            species: rows of `elements`, int64 [N].
            edges: atom i and neighbour j of both directions of every pair, int64 [2, E].
            vector: from i to j, Å, [E, 3].
        """
        distance = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
        envelope = (1 - (distance / self.cutoff).clamp(max=1) ** 2) ** 3
        radial = torch.exp(-(((distance - self.centres) / 0.5) ** 2)) * envelope
        s = self.embedding(species)
        v, t = s.new_zeros(*s.shape, 3), s.new_zeros(*s.shape, 3, 3)
        for layer in self.layers:
            s, v, t = layer((s, v, t), edges, vector / distance, radial)
        return self.energy(s).squeeze(-1)


class Layer(nn.Module):
    """One exchange with the neighbours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.radial = nn.Linear(RADIAL, 5 * channels, bias=False, **DOUBLE)
        self.update = mlp(4 * channels, channels, channels)

    def forward(self, features: Features, edges: Tensor, unit: Tensor, radial: Tensor) -> Features:
        """The features of the next layer."""
        s, v, t = features
        i, j = edges
        ws, wv, wt, vv, tt = self.radial(radial).chunk(5, dim=-1)  # each [E, C]
        outer = unit[:, :, None] * unit[:, None, :] - torch.eye(3).to(unit) / 3
        sums = torch.zeros_like(s).index_add(0, i, ws * s[j])
        v = v.index_add(0, i, (wv * s[j])[..., None] * unit[:, None] + vv[..., None] * v[j])
        t = t.index_add(0, i, (wt * s[j])[..., None, None] * outer[:, None] + tt[..., None, None] * t[j])
        s = s + self.update(torch.cat((s, sums, (v**2).sum(-1), (t**2).sum((-1, -2))), dim=-1))
        return s, v, t


def mlp(before: int, hidden: int, after: int) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(before, hidden, **DOUBLE), nn.SiLU(), nn.Linear(hidden, after, **DOUBLE))


def released(name: str) -> CartNet:
    """A model by its name, as frameworks hand out their trained ones.

    Raises:
        KeyError: there is no such model.
    """
    return {"cartnet-demo": CartNet, "cartnet-wide": lambda: CartNet(channels=16, seed=1)}[name]()

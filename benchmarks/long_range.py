"""What a Hessian loses when atoms beyond some distance do not see each other.

    python benchmarks/long_range.py

Takes the exact SO3LR Hessians of the larger molecules that `benchmarks/accuracy.py` keeps, sets all blocks beyond a
distance to zero, restores Σ_j H_ij = 0 through the diagonal, and compares. SO3LR's electrostatics and dispersion reach
to 12 Å and its charges depend on the whole molecule; the head's blocks end at twice its cutoff. This is the cost.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from hip_ext.atomic import write_text
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.evaluation.metrics import compare, summarise

REACHES = (4.0, 5.0, 6.0, 8.0, 10.0, 12.0)


def truncated(record: HessianRecord, reach: float) -> np.ndarray:
    """The exact Hessian without blocks beyond `reach` (Å), with a diagonal that makes each row sum zero."""
    n = len(record.numbers)
    blocks = record.hessian().reshape(n, 3, n, 3).copy()
    distance = np.linalg.norm(record.positions[:, None] - record.positions[None], axis=2)
    blocks[(distance > reach)[:, None, :, None].repeat(3, 1).repeat(3, 3)] = 0.0
    for i in range(n):
        blocks[i, :, i] = 0.0
        rest = blocks[i].sum(axis=1)
        blocks[i, :, i] = -(rest + rest.T) / 2
    return blocks.reshape(3 * n, 3 * n)


def main() -> None:
    """Prints and stores one row per reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "references")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/long_range_so3lr.json")
    arguments = parser.parse_args()
    records = [r for r in HessianStore(arguments.work / "large.lmdb") if len(r.numbers) >= 30]
    results = {}
    for reach in REACHES:
        found = summarise([compare(r.atoms(), truncated(r, reach), r.hessian()) for r in records])
        results[f"{reach:g} Å"] = found
        print(
            f"{reach:5.1f} Å: MAE {found['hessian_mae']:.5f} eV/Å², lowest mode {found['mode_overlap_median']:.4f}, "
            f"frequencies {found['frequency_mae']:.2f} cm⁻¹, negative modes right {found['negative_agreement']:.0%}"
        )
    write_text(arguments.out, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""The MACE model that `hip-mace-spice` belongs to, as a file that today's mace-torch reads.

    python configs/mace-spice/build.py --out runs/MACE_SPICE.model
    python configs/mace-spice/build.py --out runs/MACE_SPICE.model --file MACE_SPICE.model   # fetched by other means

The public file was written in 2022 by a MACE whose modules lacked some of today's buffers. Its weights go into a new
model, in single precision like itself; the coupling constants are computed anew. The file is a pickle: it is opened
only if it is the one that stands in MACE's history, by sha256.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch
from torch import nn

from hip_ext.atomic import atomic_path
from hip_ext.backbones.fingerprint import fingerprint
from hip_ext.backbones.mace_models import import_mace
from hip_ext.backbones.weights import fetch_weights

URL = "https://github.com/ACEsuit/mace/raw/1c0e4e8742292641ae874f3f77b091d58fb6e9f0/tests/test_openmm/MACE_SPICE.model"
SHA256 = "ba43f51ff202b77d3cbae8c4fac1172e64b4e5cd564b670af6e1f158b82bd8df"
SIZE = 1578591
FINGERPRINT = "e1f86b923d1c9f6acfb8a65bbb78994538aca3cf249d4c61bf51881592a62bf0"
"""Of what this script writes, by which the head knows its backbone."""

ARGUMENTS = {
    "r_max": 4.5,
    "num_bessel": 8,
    "num_polynomial_cutoff": 5.0,
    "max_ell": 3,
    "num_interactions": 2,
    "num_elements": 15,
    "correlation": 3,
    "radial_type": "bessel",
    "use_reduced_cg": False,
    "gate": torch.nn.functional.silu,
}


def modern(old: nn.Module) -> nn.Module:
    """A ScaleShiftMACE of the installed mace-torch, with the weights of an old one; made in double precision."""
    modules, o3 = import_mace("mace.modules"), import_mace("e3nn.o3")
    kept = {
        name: value.double() if value.is_floating_point() else value
        for name, value in old.state_dict().items()
        if "U_matrix" not in name and "_w3j" not in name
    }
    torch.set_default_dtype(torch.float64)
    new = modules.ScaleShiftMACE(
        interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        hidden_irreps=o3.Irreps("32x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=old.atomic_energies_fn.atomic_energies.double().numpy(),
        avg_num_neighbors=float(old.interactions[0].avg_num_neighbors),
        atomic_numbers=[int(z) for z in old.atomic_numbers],
        atomic_inter_scale=float(old.scale_shift.scale),
        atomic_inter_shift=float(old.scale_shift.shift),
        **ARGUMENTS,
    )
    missing, unknown = new.load_state_dict(kept, strict=False)
    assert not unknown and not set(missing) & {name for name, _ in new.named_parameters()}, (missing, unknown)
    return new


def main() -> None:
    """Fetches, checks, rebuilds and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--file", type=Path, help="MACE_SPICE.model, if it lies here already")
    arguments = parser.parse_args()
    path = arguments.file or fetch_weights("MACE_SPICE", URL, SHA256, SIZE)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise SystemExit(f"{path} has sha256 {found[:12]}, MACE_SPICE.model has {SHA256[:12]}: it is another file")
    import_mace("mace.modules")
    model = modern(torch.load(path, map_location="cpu", weights_only=False))
    if fingerprint(model) != FINGERPRINT:
        raise SystemExit(f"the model came out with fingerprint {fingerprint(model)[:12]}, expected {FINGERPRINT[:12]}")
    with atomic_path(arguments.out) as path:
        torch.save(model.float(), path)
    print(f"{arguments.out}: {sum(value.numel() for value in model.parameters())} parameters, {FINGERPRINT[:12]}")


if __name__ == "__main__":
    main()

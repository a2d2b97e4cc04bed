"""An engine for geomeTRIC with energy, gradient and Hessian, which itself would make Hessians by 6N gradients.

geomeTRIC has no call for a Hessian. It does read one from `<folder>/hessian/` if the coordinates beside it are those of
the present step, so that interrupted runs go on. The engine leaves its Hessian there before it is looked for:

    optimised = optimise(atoms, HessianCalculator(model), hessian="first")
    saddle = optimise(guess, HessianCalculator(model), transition=True, hessian="each")

After the last step of "each", "last" and "first+last", geomeTRIC makes one Hessian by differences of the forces
whatever lies there: a check of the result that does not rely on a prediction, at 6N gradients.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.units import Bohr
from numpy.typing import NDArray

from hip_ext.errors import ConfigError, MissingDependencyError, StructureError
from hip_ext.integrations.atomic_units import AtomicUnits, HessianFunction

try:
    from geometric.ase_engine import EngineASE
    from geometric.errors import GeomOptNotConvergedError
    from geometric.molecule import Molecule
    from geometric.optimize import run_optimizer
except ImportError:
    raise MissingDependencyError("geomeTRIC is not installed: pip install 'hip-ext[integrations]'") from None

KINDS = ("never", "first", "each", "last", "first+last")


class HessianEngine(EngineASE):
    """Energies and gradients of an ASE calculator, and its Hessian left where geomeTRIC looks for one.

    Args:
        atoms: the molecule, with its charge and spin in `info`; it is not changed.
        calculator: an ASE calculator, e.g. a `HessianCalculator`.
        hessian_function: gives the Hessian in eV/Å²; by default the calculator's `get_hessian`.
        leave: where to leave a Hessian: "never", at the "first" geometry, or at "each", also for saddle searches, which
            ask for a new one when a step fails.

    Raises:
        ConfigError: the calculator has no `get_hessian` and no function was given.
        StructureError: the structure is periodic.
    """

    def __init__(
        self,
        atoms: Atoms,
        calculator: Any,
        hessian_function: HessianFunction | None = None,
        leave: Literal["never", "first", "each"] = "first",
    ) -> None:
        if atoms.pbc.any():
            raise StructureError("geomeTRIC knows molecules alone, found a periodic structure: use ASE's optimisers")
        molecule = Molecule()
        molecule.elem = list(atoms.symbols)
        molecule.xyzs = [atoms.positions.copy()]
        molecule.comms = [atoms.get_chemical_formula()]
        molecule.build_topology()
        super().__init__(molecule, calculator)
        self.units = AtomicUnits(calculator, hessian_function)
        self.ase_atoms.info |= atoms.info
        self.leave = leave
        self._left = 0

    def calc(
        self, coords: NDArray[np.float64], dirname: str, read_data: bool = False, copydir: str | None = None
    ) -> dict[str, Any]:
        """Energy (Hartree) and gradient (Hartree/Bohr, [3N]) at `coords` (Bohr, [3N])."""
        result: dict[str, Any] = super().calc(coords, dirname, read_data=read_data, copydir=copydir)
        # Displacements of a Hessian by differences come with the folder of the step that they belong to.
        if copydir is None and (self.leave == "each" or (self.leave == "first" and self._left == 0)):
            self._leave_hessian(coords, Path(dirname) / "hessian")
        return result

    def _leave_hessian(self, coords: NDArray[np.float64], folder: Path) -> None:
        self.update_atoms(coords)
        matrix = self.units.hessian(self.ase_atoms)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            f"{symbol} {x:.12f} {y:.12f} {z:.12f}"
            for symbol, (x, y, z) in zip(self.M.elem, coords.reshape(-1, 3) * Bohr, strict=True)
        ]
        (folder / "coords.xyz").write_text("\n".join([str(len(rows)), "", *rows, ""]), encoding="utf-8")
        np.savetxt(folder / "hessian.txt", matrix)
        self._left += 1


def optimise(
    atoms: Atoms,
    calculator: Any,
    hessian_function: HessianFunction | None = None,
    *,
    hessian: str = "first",
    transition: bool = False,
    folder: str | Path | None = None,
    **options: Any,
) -> Atoms:
    """Runs geomeTRIC.

    Args:
        atoms: where to start; it is not changed.
        calculator: an ASE calculator, e.g. a `HessianCalculator`.
        hessian_function: gives the Hessian in eV/Å²; by default the calculator's `get_hessian`.
        hessian: when geomeTRIC uses a Hessian of the calculator's: "never", "first", "each", "last" or "first+last".
        transition: look for a saddle point of first order instead of a minimum.
        folder: for geomeTRIC's log, trajectory and Hessians; by default a temporary one.
        options: whatever else `geometric.optimize.run_optimizer` takes, such as `coordsys` or `maxiter`.

    Returns:
        The last structure, with `info["steps"]` and the energy in eV as `info["energy"]`.

    Raises:
        ConfigError: `hessian` is something else.
        StructureError: the structure is periodic, or the optimisation has not converged.
    """
    if hessian not in KINDS:
        raise ConfigError(f"hessian is one of {', '.join(KINDS)}, found {hessian!r}")
    leave: Literal["never", "first", "each"] = "first" if hessian.startswith("first") else "never"
    engine = HessianEngine(atoms, calculator, hessian_function, "each" if hessian == "each" or transition else leave)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(folder or scratch)
        place.mkdir(parents=True, exist_ok=True)
        try:
            found = run_optimizer(
                customengine=engine,
                prefix=str(place / "geometric"),
                logIni=str(_log_configuration(Path(scratch))),
                hessian=hessian,
                transition=transition,
                **options,
            )
        except GeomOptNotConvergedError as error:
            raise StructureError(f"geomeTRIC has not converged ({error}): more maxiter, or a better start") from None
        finally:
            # geomeTRIC configures the root logger of the process.
            for handler in set(root.handlers) - set(handlers):
                handler.close()
            root.handlers[:] = handlers
            root.setLevel(level)
    optimised = atoms.copy()
    optimised.positions = found.xyzs[-1]
    optimised.info |= {"steps": len(found.xyzs) - 1, "energy": calculator.get_potential_energy(optimised)}
    return optimised


def _log_configuration(folder: Path) -> Path:
    """Logging to geomeTRIC's own file alone; its default is standard error as well."""
    path = folder / "log.ini"
    path.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=file\n[formatters]\nkeys=plain\n"
        "[logger_root]\nlevel=INFO\nhandlers=file\n"
        "[handler_file]\nclass=geometric.nifty.RawFileHandler\nlevel=INFO\nformatter=plain\n"
        "args=(r'%(logfilename)s',)\n"
        "[formatter_plain]\nformat=%(message)s\n",
        encoding="utf-8",
    )
    return path

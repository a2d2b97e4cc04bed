"""A recipe for quacc: a saddle point by Sella with our Hessian, as a job that any of its workflow engines can run."""

from ase import Atoms
from quacc import job
from quacc.runners.ase import Runner
from quacc.schemas.ase import Summarize
from sella import Sella

from hip_ext import HessianCalculator, from_pretrained


@job
def saddle_job(atoms: Atoms, model: str = "hip-so3lr-organic", fmax: float = 0.01) -> dict:
    calculator = HessianCalculator(from_pretrained(model))
    options = {"order": 1, "internal": True, "hessian_function": calculator.get_hessian, "diag_every_n": 1}
    search = Runner(atoms, calculator).run_opt(optimizer=Sella, fmax=fmax, optimizer_kwargs=options)
    return Summarize(additional_fields={"name": "hip-ext saddle"}).opt(search)


guess = Atoms("NH3", [[0, 0, 0.1], [1.03, 0, 0], [-0.5, 0.9, 0], [-0.5, -0.9, 0]])
summary = saddle_job(guess)
print(f"{summary['name']}: converged: {summary['converged']}, {summary['results']['energy']:.3f} eV")

"""Reports: one HTML file with a 3D view, spectra, profiles, maps and tables, which asks nothing of the network.

parts = [Modes(atoms, vibrations.frequencies, vibrations.modes), HessianMap(atoms, hessian)]
write_report("water.html", "Water", parts)
"""

from hip_ext.report.parts import (
    Bands,
    EnergyProfile,
    Flags,
    HessianMap,
    Modes,
    Note,
    Part,
    Provenance,
    Section,
    Structure3D,
    Table,
)
from hip_ext.report.writing import check_report, write_report

__all__ = [
    "Bands",
    "EnergyProfile",
    "Flags",
    "HessianMap",
    "Modes",
    "Note",
    "Part",
    "Provenance",
    "Section",
    "Structure3D",
    "Table",
    "check_report",
    "write_report",
]

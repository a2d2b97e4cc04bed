"""Hessians of structures from any source: backbones, PySCF, tblite, any ASE calculator; `base` has the contract."""

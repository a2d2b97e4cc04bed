"""Other people's programs, one module each, imported by name: none is loaded before it is asked for.

    from hip_ext.integrations.pysisyphus import PysisyphusCalculator
    from hip_ext.integrations.geometric import HessianEngine, optimise
    from hip_ext.integrations.phonopy import phonopy_with_hessian
    from hip_ext.integrations.torch_sim import TorchSimModel

`gaussian` and `orca` are the file formats behind `hip-ext external`. Sella, ASE, janus-core and quacc need nothing of
this: they take `calculator.get_hessian`, or the calculator, as it is. See docs/integrations.md.
"""

"""The Hessian head inside MACE's own trainer: `trainer` runs it, `session` says how."""

"""How good a predicted Hessian is: per-structure metrics and their summary."""

"""How good a predicted Hessian is: metrics of one structure, their summary over a data set, tables and a page."""

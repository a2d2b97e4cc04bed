"""A Hessian readout in the manner of HIP, to compare ours with."""

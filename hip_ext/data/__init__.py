"""Molecules, geometries, and labels: what a head learns from."""

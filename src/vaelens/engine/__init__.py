"""Exact, fast execution of autoencoders in a memory budget: the values of the plain network, within a tolerance.

`autoencoder` holds the calls. `architecture` reads a network's steps; `planner` finds where each map lies; `execution`
carries the plan out, with the rows of `sources` and the maps of `maps`.
"""

from vaelens.engine.autoencoder import decode, encode, plan_decode, plan_encode

__all__ = ["decode", "encode", "plan_decode", "plan_encode"]

"""Exact, fast execution of autoencoders in a memory budget: the values of the plain network, within a tolerance."""

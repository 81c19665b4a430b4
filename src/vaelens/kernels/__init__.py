"""Convolutions and their normalisation, native or in torch operations, behind plain functions."""

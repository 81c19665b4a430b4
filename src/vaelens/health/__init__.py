"""The health of a VAE: what state its latents, its decoder and its numbers are in, each with a verdict."""

from vaelens.health.examination import Health, examine

__all__ = ["Health", "examine"]

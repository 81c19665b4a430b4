"""The health of a VAE: checks of its latents, its decoder and its activations, each with a verdict."""

from vaelens.health.examination import Health, examine

__all__ = ["Health", "examine"]

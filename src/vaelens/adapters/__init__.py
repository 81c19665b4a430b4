"""The only home of diffusers and transformers."""

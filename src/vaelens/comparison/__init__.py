"""One latent through many decoders: choosing model and VAEs, running them, and what comes out."""

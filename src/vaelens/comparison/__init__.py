"""One latent through many decoders: `workflow.compare` is the entry; it selects model and VAEs, runs them, records."""

"""One module per program that runs the same VAE: vaelens' engine and what it is compared with."""

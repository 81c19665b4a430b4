"""What an image's metadata say about its VAE, and whether a decoder reproduces its pixels."""

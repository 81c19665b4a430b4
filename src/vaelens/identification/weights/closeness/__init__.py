"""How close the weights of encoders and decoders are, and what follows: the same, a mixture, near, unknown."""

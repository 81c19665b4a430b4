"""Faster execution of whole maps on a GPU, off until `vaelens doctor --tune` has verified it on the card.

`whole_network` holds the call; `whole_maps` runs a network's steps, with the norms of `norms`; `graphs` replays calls
of shapes that come again; `verdicts` says which way is used. Where whole maps don't fit, the engine's plans serve.
"""

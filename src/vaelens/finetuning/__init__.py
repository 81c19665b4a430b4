"""Training: VAEs from scratch and better decoders for ones that are there, by recipes.

The files, in the order of what happens: recipe.py says what is trained and how; order.py and images.py give
the images of an update; objective.py and adversary.py say what is wanted; step.py makes one update of
state.py's networks; held_out.py measures them, watch.py warns; checkpoints.py keeps them; loop.py is the loop,
running.py what a user calls, and outcome.py writes what comes out.
"""

"""Training by recipes: VAEs from scratch, and better decoders for existing ones.

`training.finetune` is the public call. recipe.py is the schema of a recipe, recipe_files.py reads recipes/*.toml;
data/ opens the images, holds some out, and makes batches; initialization.py builds the network;
losses.py and step.py are one optimizer step of state.py's networks; loop.py repeats it, with validation.py's
evaluations and early stopping, and checkpoints.py; training_folder.py writes the plan and logs, export.py the results.
"""

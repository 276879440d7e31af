"""Training and evaluation of the tiny checkpoints that the pipeline embeds.

`data` makes toy objects with their images, captions and voxels; `training` holds the stages of the training and what
they share; `eval` measures a checkpoint on objects that it was not trained on. `results` records both.
"""

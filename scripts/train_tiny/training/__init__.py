"""The stages of the training, their networks, losses and optimisation loop."""

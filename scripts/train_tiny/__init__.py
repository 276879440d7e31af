"""Everything that makes the trained tiny checkpoint: objects, pictures, networks for training, and their evaluation."""

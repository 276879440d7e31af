"""Conditioning: prompts, and their way through background removal and encoders to tokens."""

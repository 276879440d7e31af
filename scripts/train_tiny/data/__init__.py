"""Toy objects composed of primitives: their distance fields, images, captions, voxels and latents."""

"""Pictures of splats: cameras, rasterizers in Triton and in plain torch, and contact sheets."""

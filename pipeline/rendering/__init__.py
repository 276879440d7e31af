"""Pictures of splats: cameras, a rasterizer in plain torch, and contact sheets."""

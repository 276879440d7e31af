"""The networks that encode prompts and views, DINOv2 and CLIP, from their published files."""

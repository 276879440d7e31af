"""Fused flow models for GPUs with Triton, equal to the plain ones up to rounding.

transformer: the conditional and the unconditional half of guidance run as one batch that shares the first
self-attention. cache: modulations, keys and values are computed once for all steps, and a context of zeros is a
constant. norms: a kernel fuses norm, modulation, gate and residual. linear: products in 8 bits. convolution, residual:
neither neighbourhoods nor up-sampled features are copied. latent_flow: what follows from the voxels alone is computed
once for each structure. graphs: steps are replayed from CUDA graphs, those of latents from graphs of their structure.
"""

"""The flow models on a GPU, faster than the plain path and equal to it up to rounding. Needs Triton.

What is saved, and where: guidance's two passes run as one batch, with the first self-attention done once for both
(trunk); the context's keys and values are computed once for all steps, and a context of zeros is a constant (trunk);
all steps' modulations come from one product for each layer (trunk, residual); norms, modulation, gates and residuals
take one kernel (norms); convolutions need neither copies of neighbours nor up-sampled features (convolution,
residual); what follows from the voxels alone is computed once for each structure (latents); steps are replayed from
CUDA graphs, those of latents from graphs of their own structure (graphs).
"""

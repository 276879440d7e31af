"""The networks of TRELLIS, their voxel grids and gaussians, and the loading of public checkpoints."""

from pipeline.trellis.gaussian_decoder import SLatGaussianDecoder
from pipeline.trellis.latent_flow import SLatFlowModel
from pipeline.trellis.structure_decoder import SparseStructureDecoder
from pipeline.trellis.structure_flow import SparseStructureFlowModel
from pipeline.trellis.voxels import VoxelGrid

__all__ = ["SLatFlowModel", "SLatGaussianDecoder", "SparseStructureDecoder", "SparseStructureFlowModel", "VoxelGrid"]

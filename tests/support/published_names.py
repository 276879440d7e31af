"""The names that tensors have in published files, written by the packages of the time, for those that they have now."""

from collections.abc import Mapping

import torch
from torch import Tensor

_DINOV2 = {
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
    ".mlp.down_proj.": ".mlp.weights_out.",
}
_AUTOENCODER = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def dinov2_of_transformers_4(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2 with or without registers; the giant's MLP had its two input matrices in one."""
    renamed = _renamed(tensors, _DINOV2)
    for name in [name for name in renamed if ".mlp.gate_proj." in name]:
        halves = renamed.pop(name), renamed.pop(name.replace(".gate_proj.", ".up_proj."))
        renamed[name.replace(".gate_proj.", ".weights_in.")] = torch.cat(halves)
    return renamed


def clip_text_of_transformers_4(tensors: Mapping[str, Tensor], positions: int) -> dict[str, Tensor]:
    """CLIP's text model alone, as before 4.31, when the numbers of the positions were saved, too."""
    renamed = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
    return {**renamed, "text_model.embeddings.position_ids": torch.arange(positions)[None]}


def autoencoder_of_diffusers_0_16(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The autoencoder of Stable Diffusion, whose attention had names of its own."""
    return _renamed(tensors, _AUTOENCODER)


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = dict(tensors)
    for new, old in names.items():
        renamed = {name.replace(new, old): tensor for name, tensor in renamed.items()}
    return renamed

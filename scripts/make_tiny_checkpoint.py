"""Make the embedded checkpoint: TRELLIS's own form at a thousandth of its size, with random weights.

    python scripts/make_tiny_checkpoint.py pipeline/checkpoints/tiny
    python scripts/make_tiny_checkpoint.py --kind sentences pipeline/checkpoints/tiny-text
    python scripts/make_tiny_checkpoint.py --kind text DIR

The weights are random. Only the last layers of the two structure networks are fitted, by least squares, so that
the structure is a pebble in the middle and not dust; what it makes has nothing to do with the prompt. The embedded
checkpoint for sentences is a text encoder beside the networks of the other one. One of kind text, for tests, has flow
models of its own, too, and takes the decoders of the embedded one, as upstream's take those of the image checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.sampling import Conditions, SamplerParams, euler_steps
from pipeline.trellis.blocks import ModulatedBlock
from pipeline.trellis.checkpoint import NETWORK_CLASSES, Network
from pipeline.trellis.gaussian_decoder import SLatGaussianDecoder
from pipeline.trellis.structure_decoder import SparseStructureDecoder
from pipeline.trellis.structure_flow import SparseStructureFlowModel, patchify
from pipeline.weights import EMBEDDED, locate
from scripts.checkpoint_files import save_network, save_tokenizer
from scripts.random_checkpoint import GAUSSIANS

SEED = 17
WIDTH = 96
HEADS = 4
LATENT_CHANNELS = 8
COND_TOKENS = 69
# Unlike WIDTH, so that nobody takes the one for the other.
TEXT_WIDTH = 64
TEXT_TOKENS = 77
# Size of the pebble, of 64^3 voxels.
VOXELS = 1500

FLOW_ARGS = {
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": WIDTH,
    "cond_channels": WIDTH,
    "num_blocks": 2,
    "num_heads": HEADS,
    "mlp_ratio": 4,
    "patch_size": 2,
    "pe_mode": "ape",
    "qk_rms_norm": True,
    "use_fp16": True,
}
Networks = dict[str, tuple[str, dict[str, Any]]]
NETWORKS: Networks = {
    "ss_flow_tiny": ("SparseStructureFlowModel", {"resolution": 16, **FLOW_ARGS}),
    "ss_dec_tiny": (
        "SparseStructureDecoder",
        {
            "out_channels": 1,
            "latent_channels": LATENT_CHANNELS,
            "num_res_blocks": 1,
            "num_res_blocks_middle": 1,
            "channels": [32, 16, 8],
            "use_fp16": True,
        },
    ),
    "slat_flow_tiny": (
        "ElasticSLatFlowModel",
        {"resolution": 64, **FLOW_ARGS, "num_io_res_blocks": 2, "io_block_channels": [32]},
    ),
    "slat_dec_gs_tiny": (
        "ElasticSLatGaussianDecoder",
        {
            "resolution": 64,
            "model_channels": WIDTH,
            "latent_channels": LATENT_CHANNELS,
            "num_blocks": 3,
            "num_heads": HEADS,
            "mlp_ratio": 4,
            "attn_mode": "swin",
            "window_size": 8,
            "use_fp16": True,
            "representation_config": GAUSSIANS,
        },
    ),
}
# The two flows differ from those for images where upstream's do.
TEXT_FLOW_ARGS = {**FLOW_ARGS, "cond_channels": TEXT_WIDTH}
TEXT_NETWORKS: Networks = {
    "ss_flow_txt_tiny": ("SparseStructureFlowModel", {"resolution": 16, **TEXT_FLOW_ARGS, "qk_rms_norm_cross": True}),
    "slat_flow_txt_tiny": (
        "ElasticSLatFlowModel",
        {"resolution": 64, **TEXT_FLOW_ARGS, "num_io_res_blocks": 3, "io_block_channels": [32]},
    ),
}
SAMPLER = {"name": "FlowEulerGuidanceIntervalSampler", "args": {"sigma_min": 1e-5}}
SETTINGS = SamplerParams(steps=25, cfg_strength=5.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)
TEXT_SETTINGS = SamplerParams(steps=25, cfg_strength=7.5, cfg_interval=(0.5, 0.95), rescale_t=3.0)


def pipeline_json(
    name: str, models: dict[str, str], settings: SamplerParams, encoder: dict[str, str]
) -> dict[str, Any]:
    """The content of a checkpoint's pipeline.json."""
    return {
        "name": name,
        "args": {
            "models": models,
            "sparse_structure_sampler": {**SAMPLER, "params": settings.published()},
            "slat_sampler": {**SAMPLER, "params": settings.published()},
            "slat_normalization": {"mean": [0.0] * LATENT_CHANNELS, "std": [1.0] * LATENT_CHANNELS},
            **encoder,
        },
    }


MODELS = {
    "sparse_structure_flow_model": "ckpts/ss_flow_tiny",
    "sparse_structure_decoder": "ckpts/ss_dec_tiny",
    "slat_flow_model": "ckpts/slat_flow_tiny",
    "slat_decoder_gs": "ckpts/slat_dec_gs_tiny",
}
PIPELINE = pipeline_json("TrellisImageTo3DPipeline", MODELS, SETTINGS, {"image_cond_model": "image_encoder"})
EMBEDDED_CKPTS = locate(EMBEDDED, "pipeline.json") / "ckpts"
TEXT_MODELS = {
    "sparse_structure_flow_model": "ckpts/ss_flow_txt_tiny",
    "sparse_structure_decoder": str(EMBEDDED_CKPTS / "ss_dec_tiny"),
    "slat_flow_model": "ckpts/slat_flow_txt_tiny",
    "slat_decoder_gs": str(EMBEDDED_CKPTS / "slat_dec_gs_tiny"),
}
SENTENCE_PIPELINE = pipeline_json(
    "TrellisTextTo3DPipeline",
    {role: f"../{EMBEDDED_CKPTS.parent.name}/{path}" for role, path in MODELS.items()},
    SETTINGS,
    {"text_cond_model": "text_encoder"},
)
TEXT_PIPELINE = pipeline_json(
    "TrellisTextTo3DPipeline", TEXT_MODELS, TEXT_SETTINGS, {"text_cond_model": "text_encoder"}
)


def random_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Fill matrices with N(0, 1/fan_in), vectors of norms with 1 and biases with small noise."""
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
            parameter.data = torch.ones(parameter.shape)
        elif parameter.ndim == 1:
            parameter.data = 0.1 * noise
        else:
            fan_in = parameter[0].numel() if "cls_token" not in name else 1
            parameter.data = noise / fan_in**0.5


def make_network(class_name: str, args: dict[str, Any], generator: torch.Generator) -> Network:
    """A network with random weights and the buffers its constructor computes."""
    network = NETWORK_CLASSES[class_name.removeprefix("Elastic")](**args)
    random_weights(network, generator)
    return network.eval().requires_grad_(False)


def closeness(resolution: int) -> Tensor:
    """[R, R, R]: how near each cell is to the cube's centre, of mean 0 and root mean square 1.

    It falls off with |x| + |y| + |z|: a sum of functions of one coordinate each, which a linear layer can read
    off the position embedding.
    """
    axis = ((torch.arange(resolution) + 0.5) / resolution - 0.5).abs()
    distances = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).sum(dim=0)
    return (distances.mean() - distances) / distances.std()


def pebble_latent() -> Tensor:
    """[1, 8, 16, 16, 16]: the first channel is the closeness to the centre, the others are zero."""
    return F.pad(closeness(16)[None, None], (0, 0, 0, 0, 0, 0, 0, LATENT_CHANNELS - 1))


def fit_head(layer: nn.Linear | nn.Conv3d, features: Tensor, targets: Tensor) -> None:
    """Set weight and bias by ridge regression from features [n, in] to targets [n, out]."""
    x = F.pad(features.double(), (0, 1), value=1.0)
    gram = x.T @ x + 1e-6 * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(gram, x.T @ targets.double()).T.float()
    layer.weight.data = solution[:, :-1].reshape(layer.weight.shape).contiguous()
    assert layer.bias is not None
    layer.bias.data = solution[:, -1].contiguous()


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what `layer` is given."""
    inputs: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    yield inputs
    handle.remove()


def fit_structure_flow(
    flow: SparseStructureFlowModel,
    generator: torch.Generator,
    cond_tokens: int = COND_TOKENS,
    cond_channels: int = WIDTH,
) -> None:
    """Fit the output layer to the velocity 4 * (x - latent), which leaves exp(-4) of the noise at t = 0."""
    for block in flow.blocks:
        assert isinstance(block, ModulatedBlock)
        block.adaLN_modulation.get_parameter("1.weight").data.mul_(0.05)
        block.cross_attn.to_out.weight.data.mul_(0.01)
    latent = pebble_latent()
    targets = []
    with inputs_of(flow.out_layer) as inputs:
        for t in torch.linspace(0, 1, 40):
            x = latent + t * torch.randn(latent.shape, generator=generator)
            cond = torch.randn(1, cond_tokens, cond_channels, generator=generator)
            flow(x, 1000 * t[None], cond)
            targets.append(patchify(4 * (x - latent), flow.patch_size).flatten(2)[0].T)
    fit_head(flow.out_layer, torch.cat(inputs), torch.cat(targets))


def sample_structures(flow: SparseStructureFlowModel, count: int, generator: torch.Generator) -> Tensor:
    """[count, 8, 16, 16, 16]: what the flow makes of random conditions at the checkpoint's settings."""
    cond = torch.randn(count, COND_TOKENS, WIDTH, generator=generator)
    x = torch.randn(count, LATENT_CHANNELS, 16, 16, 16, generator=generator)

    def velocities(x: Tensor, t: float, contexts: Sequence[Tensor]) -> list[Tensor]:
        return [flow(x, torch.full((count,), 1000 * t), context) for context in contexts]

    for step in euler_steps(velocities, x, Conditions((cond,), torch.zeros_like(cond)), SETTINGS):
        x = step.x_next
    return x


def fit_structure_decoder(decoder: SparseStructureDecoder, latents: Tensor) -> None:
    """Let the channels through and fit the last convolution to logits that occupy VOXELS voxels in the middle."""
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data.mul_(0.2)
            outputs = torch.arange(module.out_channels)
            if name == "input_layer":
                module.weight.data[outputs, outputs % LATENT_CHANNELS] += 1 / 27
            elif name.endswith(".conv"):
                module.weight.data[outputs, outputs // 8, 1, 1, 1] += 1
    convolution = decoder.out_layer[2]
    assert isinstance(convolution, nn.Conv3d)
    assert convolution.bias is not None
    with inputs_of(convolution) as inputs:
        decoder(latents)
    padded = F.pad(inputs[0], (1,) * 6)
    patches = padded.unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)
    features = patches.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4).flatten(0, 3)
    fit_head(convolution, features, closeness(64).flatten().repeat(len(latents))[:, None])
    thresholds = decoder(latents).flatten(1).sort().values[:, -VOXELS]
    convolution.bias.data -= thresholds.mean()


def shape_gaussians(decoder: SLatGaussianDecoder) -> None:
    """Bias the output towards gaussians as wide as a voxel, fairly opaque, visibly turned and coloured."""
    layer, g = decoder.out_layer, decoder.config.num_gaussians
    _, colour, scale, rotation, opacity = layer.weight.data.split([3 * g, 3 * g, 3 * g, 4 * g, g])
    colour.mul_(0.7)
    scale.mul_(0.3)
    rotation.mul_(6)
    opacity.mul_(0.7)
    layer.bias.data[6 * g : 9 * g] = 1.0
    layer.bias.data[13 * g :] = 3.5


def save_image_encoder(directory: Path, generator: torch.Generator) -> None:
    """Write a small DINOv2 with registers: 112 pixels, 64 patches and 5 other tokens."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        image_size=112,
        patch_size=14,
        num_register_tokens=4,
    )
    model = Dinov2WithRegistersModel(config)
    random_weights(model, generator)
    model.save_pretrained(directory)


def save_text_encoder(
    directory: Path, generator: torch.Generator, width: int = TEXT_WIDTH, dtype: torch.dtype = torch.float32
) -> None:
    """Write the text half of a small CLIP, and a tokenizer whose tokens are single bytes."""
    from transformers import CLIPTextConfig, CLIPTextModel

    size = save_tokenizer(directory)
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        max_position_embeddings=TEXT_TOKENS,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
    )
    model = CLIPTextModel(config)
    random_weights(model, generator)
    model.to(dtype).save_pretrained(directory)


@torch.no_grad()
def make_image_checkpoint(directory: Path) -> None:
    """Write pipeline.json, ckpts/ and image_encoder/ below `directory`."""
    generator = torch.Generator().manual_seed(SEED)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pipeline.json").write_text(json.dumps(PIPELINE, indent=2) + "\n")
    latents = torch.empty(0)
    for stem, (class_name, args) in NETWORKS.items():
        network = make_network(class_name, args, generator)
        if isinstance(network, SparseStructureFlowModel):
            fit_structure_flow(network, generator)
            latents = sample_structures(network, 4, generator)
        elif isinstance(network, SparseStructureDecoder):
            fit_structure_decoder(network, latents)
        elif isinstance(network, SLatGaussianDecoder):
            shape_gaussians(network)
        save_network(network, class_name, args, directory / "ckpts" / stem)
    save_image_encoder(directory / "image_encoder", generator)


@torch.no_grad()
def make_text_checkpoint(directory: Path) -> None:
    """Write pipeline.json, ckpts/ and text_encoder/ below `directory`; the decoders stay where they are."""
    generator = torch.Generator().manual_seed(SEED)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pipeline.json").write_text(json.dumps(TEXT_PIPELINE, indent=2) + "\n")
    for stem, (class_name, args) in TEXT_NETWORKS.items():
        network = make_network(class_name, args, generator)
        if isinstance(network, SparseStructureFlowModel):
            fit_structure_flow(network, generator, TEXT_TOKENS, TEXT_WIDTH)
        save_network(network, class_name, args, directory / "ckpts" / stem)
    save_text_encoder(directory / "text_encoder", generator)


@torch.no_grad()
def make_sentence_checkpoint(directory: Path) -> None:
    """Write pipeline.json and text_encoder/ below `directory`, which is to lie beside the embedded checkpoint."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pipeline.json").write_text(json.dumps(SENTENCE_PIPELINE, indent=2) + "\n")
    save_text_encoder(directory / "text_encoder", torch.Generator().manual_seed(SEED), WIDTH, torch.float16)


KINDS = {"image": make_image_checkpoint, "sentences": make_sentence_checkpoint, "text": make_text_checkpoint}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kind", choices=sorted(KINDS), default="image", help="what the prompts are")
    arguments = parser.parse_args()
    KINDS[arguments.kind](arguments.directory)


if __name__ == "__main__":
    main()

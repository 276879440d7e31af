"""Files of phases."""

from pathlib import Path

COMPLETE = """
image: {checkpoint: embedded}
sparse_structure_sampler_params: {steps: 9, cfg_strength: 5.0, cfg_interval: [0.5, 1.0], rescale_t: 3.0}
slat_sampler_params: {steps: 8, cfg_strength: 2.5}
background: {model: u2netp}
"""


def write(config: Path, name: str, content: str) -> Path:
    path = config.parent / "phases" / f"{name}.yaml"
    path.write_text(content)
    return path


SHIPPED = ("baseline", "best-of-n", "demo", "few-step", "phase3", "phase4", "test3")

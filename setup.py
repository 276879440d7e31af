"""Package metadata; tool settings are in pyproject.toml, exact versions in constraints.txt."""

from setuptools import find_packages, setup

# Only for phases with text_to_image.
TEXT_TO_IMAGE = ["accelerate", "diffusers>=0.42,<1", "transformers>=5,<6"]
# Only for the parts alignment and similarity of a phase's scorer.
SCORE = ["ftfy>=6.3,<7", "regex", "torchmetrics>=1.9,<2"]
# Only for workers on the machines of a Ray cluster, all of which must have the same version.
RAY = ["ray>=2.60,<2.61"]
# Has the photograph of scripts/demo.py.
DEMO = ["scikit-image"]

setup(
    name="sn17-miner",
    version="0.1.0",
    description="A miner for Bittensor subnet 17 that generates gaussian splats in its own process",
    license="MIT",
    python_requires=">=3.11",
    packages=[*find_packages(include=["miner", "miner.*", "pipeline", "pipeline.*"]), "miner.config.shipped"],
    package_dir={"miner.config.shipped": "config"},
    entry_points={"console_scripts": ["sn17-miner = miner.cli:main"]},
    package_data={
        "miner.monitor": ["static/*", "static/vendor/*", "static/vendor/*/*"],
        "miner.config.shipped": ["*.yaml", "phases/*.yaml"],
        "pipeline": [
            "checkpoints/*/*.json",
            "checkpoints/*/*/*.json",
            "checkpoints/*/*/*.safetensors",
            "checkpoints/*/*/*.txt",
        ],
    },
    install_requires=[
        "aiohttp",
        "bittensor>=10.5,<11",
        "click>=8.4",
        "fastapi",
        "filelock>=3.16",
        "huggingface_hub",
        "numpy>=2.0.1,<3",
        "pillow>=12.1",
        "prometheus_client>=0.26,<1",
        "pydantic>=2.3,<3",
        "pydantic_core",
        "pyyaml>=6",
        "rembg>=2.0.86",
        "ruamel.yaml>=0.18",
        "safetensors>=0.6",
        "scipy",
        "tokenizers",
        "torch>=2.11,<3",
        "tqdm",
        "uvicorn",
        "zstandard>=0.24",
    ],
    extras_require={
        # One of these two, never both: they install the same folder.
        "cpu": ["onnxruntime>=1.23.2"],
        "gpu": ["onnxruntime-gpu>=1.23.2"],
        "text-to-image": TEXT_TO_IMAGE,
        "score": SCORE,
        "ray": RAY,
        "demo": DEMO,
        "dev": [
            *DEMO,
            *RAY,
            *SCORE,
            *TEXT_TO_IMAGE,
            "cyclonedx-python-lib>=11",
            "hypothesis",
            "import-linter",
            "matplotlib",
            "mypy",
            "packaging",
            "plyfile>=1.1",
            "pytest",
            "pytest-asyncio",
            "pytest-xdist",
            "ruff",
            "types-PyYAML",
            "types-requests",
        ],
    },
)

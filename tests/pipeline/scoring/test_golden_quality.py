"""The quality of views, against what the validator's own code computed with weights by formula."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pipeline.scoring.quality import QualityNetwork
from tests.support.formula_weights import SCORE_DATA, formula_weights, golden_shapes
from tests.support.score_views import OBJECTS, golden_scores, golden_views

CPU = torch.device("cpu")
# What facebook/dinov2-small has in its config.json besides the sizes, written by transformers 4.32.
PUBLISHED_CONFIG = {
    "apply_layernorm": True,
    "architectures": ["Dinov2Model"],
    "attention_probs_dropout_prob": 0.0,
    "hidden_dropout_prob": 0.0,
    "initializer_range": 0.02,
    "model_type": "dinov2",
    "num_channels": 3,
    "out_features": ["stage2"],
    "out_indices": [2],
    "reshape_hidden_states": True,
    "stage_names": ["stem", "stage1", "stage2"],
    "torch_dtype": "float32",
    "transformers_version": "4.32.0.dev0",
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> QualityNetwork:
    """From a file with the names that the validator's class writes, those of transformers 4."""
    directory = tmp_path_factory.mktemp("quality")
    save_file(formula_weights(golden_shapes("quality")), directory / "quality_scorer.safetensors")
    config = json.loads((SCORE_DATA / "networks.json").read_text())["quality"]["config"]
    (directory / "config.json").write_text(json.dumps({**PUBLISHED_CONFIG, **config}))
    return QualityNetwork.load(str(directory), CPU)


@pytest.mark.parametrize("name", OBJECTS)
def test_the_golden_views(network: QualityNetwork, name: str) -> None:
    golden = golden_scores(name)["quality"]
    views = network.measure_views(golden_views(name))
    assert views.tolist() == pytest.approx(golden["per_view"], abs=2e-6, rel=0)
    assert network.measure(golden_views(name)) == pytest.approx(golden["final"], abs=2e-6, rel=0)

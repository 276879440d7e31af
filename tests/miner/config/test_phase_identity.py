"""What a phase is told apart by, and the forms that it is shown in."""

from pathlib import Path

import pytest
import yaml

from miner.config.choice_sections import GateSettings
from miner.config.loader import load_yaml, shipped_config
from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase, load_phase
from tests.support.phase_files import COMPLETE, SHIPPED, write


def test_the_hash_is_of_what_shapes_a_result(config: Path) -> None:
    def digest(content: str) -> str:
        write(config, "x", content)
        return load_phase("x", config).config_hash

    base = digest(COMPLETE)
    assert len(base) == 12
    assert digest("# a remark\nnote: words\nhypothesis: more\n" + COMPLETE) == base
    assert digest("extends: base\n") == base
    assert digest(COMPLETE.replace("5.0", "5")) == base
    assert digest(COMPLETE + "export: {extent: null}\nmax_voxels: null\nbackend: native\n") == base
    assert digest(COMPLETE + "candidates: {count: 1}\nscorer: null\ngate: null\ntext_to_image: null\n") == base
    assert digest(COMPLETE.replace("{model: u2netp}", "{provider: cpu, model: u2netp}")) == base
    others = [
        digest(COMPLETE.replace("steps: 9", "steps: 10")),
        digest(COMPLETE.replace("rescale_t: 3.0", "rescale_t: 3.1")),
        digest(COMPLETE.replace("u2netp", "u2net")),
        digest(COMPLETE + "export: {extent: 1.5}\n"),
        digest(COMPLETE + "acceleration: {reuse: 1}\n"),
        digest(COMPLETE.replace("image:", "text:")),
        digest(COMPLETE + "scorer: {}\n"),
        digest(COMPLETE + "scorer: {}\ncandidates: {count: 2}\n"),
        digest(COMPLETE + "scorer: {}\ngate: {quality: 0.5}\n"),
        digest(COMPLETE + "scorer: {}\ngate: auto\n"),
        digest(COMPLETE + "text_to_image: {model: m}\n"),
        digest(COMPLETE + "text_to_image: {model: m, steps: 1}\n"),
    ]
    assert len({base, *others}) == 13


def test_the_hash_of_a_phase_does_not_change_with_the_software(config: Path) -> None:
    """An operator's ledger compares phases over years."""
    sampler = "{steps: 30, cfg_strength: 7.5, cfg_interval: [0.5, 1.0], rescale_t: 3.0}"
    write(
        config,
        "x",
        f"image: {{checkpoint: microsoft/TRELLIS-image-large}}\nsparse_structure_sampler_params: {sampler}\n"
        f"slat_sampler_params: {sampler.replace('30', '20').replace('7.5', '3.0')}\n"
        "background: {model: u2net, provider: cpu}\n",
    )
    assert load_phase("x", config).config_hash == "cc09ecea5cb5"


def test_what_has_to_be_loaded_for_a_phase(config: Path) -> None:
    def loaded(content: str) -> str:
        write(config, "x", content)
        return load_phase("x", config).settings.models_key

    base = loaded(COMPLETE)
    for same in (
        COMPLETE.replace("steps: 9", "steps: 10"),
        COMPLETE.replace("u2netp", "u2netp, faint: scale"),
        COMPLETE.replace("model: u2netp", "models: [u2netp], choose: first, pieces: largest, clean_edges: true"),
        COMPLETE + "note: x\nexport: {extent: 1.5}\nmax_voxels: {count: 9}\nacceleration: {reuse: 2}\n",
    ):
        assert loaded(same) == base
    other = [
        loaded(COMPLETE.replace("embedded", "/elsewhere")),
        loaded(COMPLETE + "text: {checkpoint: embedded}\n"),
        loaded(COMPLETE.replace("embedded", "embedded, overrides: {slat_flow_model: x}")),
        loaded(COMPLETE.replace("u2netp", "u2net")),
        loaded(COMPLETE + "backend: trellis\n"),
        loaded(COMPLETE + "acceleration: {fp8: true}\n"),
        loaded(COMPLETE + "scorer: {}\n"),
        loaded(COMPLETE + "scorer: {weights: /elsewhere}\n"),
        loaded(COMPLETE + "text_to_image: {model: m}\n"),
    ]
    assert len({base, *other}) == 10
    for more in ("candidates: {count: 9, seconds: 3}\n", "gate: {quality: 0.5}\n"):
        assert loaded(COMPLETE + "scorer: {}\n" + more) == other[-3]
    assert loaded(COMPLETE + "text_to_image: {model: m, steps: 1, guidance: 2}\n") == other[-1]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shown_is_a_complete_file_of_the_same_phase(tmp_path: Path, name: str) -> None:
    phase = load_phase(name, shipped_config() / "miner.yaml")
    (tmp_path / "x.yaml").write_text(phase.yaml)
    again = NamedPhase(name, load_yaml(tmp_path / "x.yaml", Phase))
    assert again == phase
    assert again.config_hash == phase.config_hash
    assert "extends" not in yaml.safe_load(phase.yaml)


def test_a_phase_that_says_everything_is_shown_whole(config: Path, tmp_path: Path) -> None:
    write(
        config,
        "x",
        COMPLETE + "scorer: {}\ncandidates: {count: 4}\ngate: {quality: 0.6}\ntext_to_image: {model: m, steps: 1}\n",
    )
    phase = load_phase("x", config)
    (tmp_path / "again.yaml").write_text(phase.yaml)
    assert NamedPhase("x", load_yaml(tmp_path / "again.yaml", Phase)).config_hash == phase.config_hash
    assert phase.settings.scorer is not None
    assert phase.settings.scorer.weights == "404-Gen/validation@948bf06988b630681c7bc468aebf2bbe010856f7"
    keys = phase.flat()
    assert (keys["candidates.count"], keys["candidates.seconds"], keys["gate.quality"]) == (4, 20.0, 0.6)


def test_settings_by_dotted_key(config: Path) -> None:
    keys = load_phase("base", config).flat()
    assert keys["slat_sampler_params.steps"] == 8
    assert keys["image.checkpoint"] == "embedded"
    assert keys["acceleration.fp8"] is False
    assert "note" not in keys


def test_a_gate_of_auto_comes_back_from_every_form_of_a_phase(config: Path) -> None:
    write(config, "base", COMPLETE + "scorer: {}\ngate: {quality: 0.5}\n")
    write(config, "top", "extends: base\ngate: auto\n")
    phase = load_phase("top", config)
    assert (phase.settings.gate, phase.flat()["gate"]) == ("auto", "auto")
    write(config, "again", phase.yaml)
    assert load_phase("again", config).settings == phase.settings
    assert Phase.model_validate_json(phase.settings.model_dump_json()) == phase.settings
    write(config, "fixed", "extends: top\ngate: {score: 0.55}\nscorer: {parts: [quality, alignment, similarity]}\n")
    fixed = load_phase("fixed", config)
    assert fixed.settings.gate == GateSettings(score=0.55)
    assert Phase.model_validate_json(fixed.settings.model_dump_json()) == fixed.settings

from pathlib import Path

import pytest

from miner.config.loader import phase_names, shipped_config
from miner.config.phase import Phase
from miner.config.phase_files import load_phase
from miner.errors import OperatorError
from pipeline import CutOutParams
from tests.support.phase_files import COMPLETE, SHIPPED, write


@pytest.mark.parametrize(
    ("name", "structure", "latents"),
    [
        ("baseline", (30, 7.5), (20, 3.0)),
        ("test3", (60, 5.0), (50, 2.5)),
        ("phase3", (50, 9.0), (35, 4.0)),
        ("demo", (12, 0.0), (12, 0.0)),
    ],
)
def test_the_figures_of_those_shipped(name: str, structure: tuple[int, float], latents: tuple[int, float]) -> None:
    settings = load_phase(name, shipped_config() / "miner.yaml").settings
    samplers = settings.sparse_structure_sampler_params, settings.slat_sampler_params
    assert [(sampler.steps, sampler.cfg_strength) for sampler in samplers] == [structure, latents]
    assert {(sampler.cfg_interval, sampler.rescale_t) for sampler in samplers} == {((0.5, 1.0), 3.0)}
    assert settings.note
    assert settings.hypothesis


def test_few_step_replaces_both_flows_and_says_that_it_is_untested() -> None:
    settings = load_phase("few-step", shipped_config() / "miner.yaml").settings
    assert settings.image is not None
    assert set(settings.image.overrides) == {"sparse_structure_flow_model", "slat_flow_model"}
    assert settings.sparse_structure_sampler_params.steps == settings.slat_sampler_params.steps == 2
    assert "Untested against published weights" in settings.note


def test_shipped_phases_that_share_models_can_be_split() -> None:
    keys = {name: load_phase(name, shipped_config() / "miner.yaml").settings.models_key for name in SHIPPED}
    assert keys["baseline"] == keys["test3"] == keys["phase3"]
    assert keys["phase3"].can_be_shared(keys["best-of-n"])
    assert keys["phase4"].can_be_shared(keys["best-of-n"])
    # What best-of-n and phase4 have in memory is more than what phase3 needs.
    assert keys["best-of-n"].serves(keys["phase3"])
    assert not keys["phase3"].serves(keys["best-of-n"])
    assert keys["phase4"].serves(keys["phase3"])
    assert not keys["phase3"].serves(keys["phase4"])
    assert not keys["phase3"].can_be_shared(keys["demo"])
    assert len({key.generation for key in keys.values()}) == 3


def test_sentences_are_read_or_drawn_in_the_template_of_their_route(config: Path) -> None:
    def loaded(content: str) -> Phase:
        write(config, "x", COMPLETE + content)
        return load_phase("x", config).settings

    read = loaded("text: {checkpoint: embedded-text, template: 'a toy, {prompt}'}\n")
    assert read.template == "a toy, {prompt}"
    assert read.models_key == loaded("text: {checkpoint: embedded-text}\n").models_key
    drawn = loaded("text_to_image: {model: m, drawings: 3, template: '{prompt}, alone'}\nframing: {margin: 2.0}\n")
    assert drawn.template == "{prompt}, alone"
    assert (drawn.text_to_image_params.drawings, drawn.text_to_image_params.cut_out.margin) == (3, 2.0)
    assert loaded("").template == "{prompt}"


def test_phase4_is_phase3_with_other_cut_outs() -> None:
    phase3, phase4 = (load_phase(name, shipped_config() / "miner.yaml") for name in ("phase3", "phase4"))
    before, after = phase3.flat(), phase4.flat()
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed == {"background.model", "background.models", "background.clean_edges"}
    assert "Unproven on the live network" in phase4.settings.note
    cut_out = phase4.settings.cut_out
    assert (cut_out.models, cut_out.choose, cut_out.clean_edges) == (("u2net", "u2netp"), "rule", True)


def test_how_pictures_are_cut_out_and_framed(config: Path) -> None:
    write(
        config,
        "x",
        COMPLETE.replace(
            "u2netp", "null, models: [u2net, u2netp], choose: first, unusable: whole, pieces: 0.1, faint: scale"
        )
        + "framing: {margin: 1.5, min_side: 20, enlarge: 256}\n",
    )
    phase = load_phase("x", config).settings
    assert phase.cut_out == CutOutParams(
        models=("u2net", "u2netp"), choose="first", unusable="whole", pieces=0.1, faint="scale",
        margin=1.5, min_side=20, enlarge=256,
    )  # fmt: skip


def test_all_those_shipped_are_listed() -> None:
    assert tuple(phase_names(shipped_config() / "miner.yaml")) == SHIPPED


def test_a_phase_extends_another_key_by_key(config: Path) -> None:
    write(config, "middle", "extends: base\nnote: of the middle\nslat_sampler_params: {cfg_strength: 4}\n")
    write(config, "top", "extends: middle\nslat_sampler_params: {steps: 50}\nmax_voxels: {count: 7}\n")
    settings = load_phase("top", config).settings
    assert (settings.slat_sampler_params.steps, settings.slat_sampler_params.cfg_strength) == (50, 4.0)
    assert settings.sparse_structure_sampler_params.steps == 9
    assert settings.max_voxels is not None
    assert settings.note == ""
    assert load_phase("middle", config).settings.note == "of the middle"


def test_null_takes_a_key_away(config: Path) -> None:
    write(config, "top", "extends: base\nimage: null\ntext: {checkpoint: embedded}\n")
    settings = load_phase("top", config).settings
    assert settings.image is None
    assert settings.text is not None


def test_a_phase_may_extend_one_that_is_shipped(config: Path) -> None:
    write(config, "mine", "extends: phase3\nslat_sampler_params: {steps: 34}\n")
    settings = load_phase("mine", config).settings
    assert (settings.sparse_structure_sampler_params.steps, settings.slat_sampler_params.steps) == (50, 34)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("extends: nobody\n", r"top.yaml: extends: there is no phase 'nobody'; there are: base, "),
        ("extends: top\n", r"top.yaml: extends: phases extend one another in a circle: top -> top"),
        ("extends: [base]\n", r"top.yaml: extends: must be the name of one phase"),
        ("extends: base\nstep: 3\n", r"top.yaml: unknown key step; allowed here: note, hypothesis, image"),
        ("extends: base\nexport: {size: 2}\n", r"top.yaml: unknown key export.size; allowed here: extent"),
        (
            "extends: base\nexport: {upright: true}\n",
            r"top.yaml: export: leave upright out: what is submitted always stands upright",
        ),
        ("extends: base\nslat_sampler_params: {steps: '30'}\n", r"top.yaml: slat_sampler_params.steps: .*integer"),
        ("extends: base\nslat_sampler_params: {steps: true}\n", r"top.yaml: slat_sampler_params.steps: .*integer"),
        ("extends: base\nslat_sampler_params: {steps: 1001}\n", r"top.yaml: slat_sampler_params.steps: .*1000"),
        ("extends: base\nslat_sampler_params: {cfg_strength: .inf}\n", r"cfg_strength: .*finite"),
        ("extends: base\nslat_sampler_params: 3\n", r"top.yaml: slat_sampler_params: .*dictionary"),
        ("extends: base\nbackground: {model: rmbg}\n", r"background.model: .*must be one of u2net, u2netp"),
        (
            "extends: base\ntext_to_image: {model: m, template: a chair}\n",
            r"text_to_image.template: .*needs \{prompt\} once",
        ),
        ("extends: base\ntext: {checkpoint: x, template: '{prompt} {x}'}\n", r"text.template: .*no other braces"),
        ("extends: base\nbackground: {models: [u2net]}\n", r"needs either model: NAME or models: .*`model: null`"),
        ("extends: base\nbackground: {model: null}\n", r"needs either model: NAME or models:"),
        (
            "extends: base\nbackground: {model: null, models: [u2net, rmbg]}\n",
            r"background.models: .*rmbg: each must be",
        ),
        ("extends: base\nbackground: {model: null, models: [u2net, u2net]}\n", r"background.models: .*each model once"),
        ("extends: base\nbackground: {pieces: 1.5}\n", r"background.pieces"),
        ("extends: base\nframing: {margin: 0.5}\n", r"framing.margin: .*greater than or equal to 1"),
        ("extends: base\nbackground: {faint: scaled}\n", r"background.faint: .*'refuse' or 'scale'"),
        ("extends: base\nimage: {overrides: {decoder: x}}\n", r"image.overrides.decoder: .*slat_flow_model"),
        ("extends: base\nimage: null\n", r"needs image: \{checkpoint: ...\}, text:"),
        ("extends: base\nbackend: trellis\nimage: {overrides: {slat_flow_model: x}}\n", r"leave overrides out"),
        ("extends: base\ncandidates: {number: 4}\n", r"unknown key candidates.number; allowed here: count, seconds"),
        ("extends: base\ncandidates: {count: 0}\n", r"top.yaml: candidates.count: .*greater than or equal to 1"),
        ("extends: base\ncandidates: {count: 1001}\n", r"candidates.count: .*less than or equal to 1000"),
        ("extends: base\ncandidates: {count: true}\n", r"candidates.count: .*valid integer"),
        ("extends: base\ncandidates: {seconds: 0}\n", r"candidates.seconds: .*greater than 0"),
        ("extends: base\ncandidates: {seconds: .inf}\n", r"candidates.seconds: .*"),
        ("extends: base\ncandidates: {count: 2}\n", r"top.yaml: .*candidates.count: only 1 is allowed without scorer"),
        (
            "extends: base\nscorer: {model: x}\n",
            r"key scorer.model; allowed here: parts, weights, text_al",
        ),
        ("extends: base\nscorer: {weights: ''}\n", r"scorer.weights: .*at least 1 character"),
        ("extends: base\ngate: {quality: 0.5}\n", r"top.yaml: .*gate needs scorer: \{\}"),
        ("extends: base\nscorer: {}\ngate: {quality: 1.5}\n", r"gate.quality: .*less than or equal to 1"),
        (
            "extends: base\nscorer: {}\ncandidates: {count: 2, preview_steps: 3}\n",
            r"candidates: .*count of 3 or",
        ),
        (
            "extends: base\nscorer: {}\nslat_sampler_params: {steps: 3}\ncandidates: {count: 3, preview_steps: 3}\n",
            r"preview_steps: 3 is as much work as a whole candidate, since slat_sampler_params.steps is 3; take fewer",
        ),
        ("extends: base\nscorer: {}\ngate: {}\n", r"gate: .*needs either quality or score"),
        ("extends: base\nscorer: {}\ngate: {quality: 0.5, score: 0.5}\n", r"gate: .*needs either quality or score"),
        ("extends: base\nscorer: {}\ngate: {score: 0.6}\n", r"gate.score needs scorer: {parts: \[quality, align"),
        ("extends: base\nscorer: {parts: [alignment]}\ngate: {quality: 0.6}\n", r"quality among scorer.parts"),
        ("extends: base\ngate: auto\n", r"top.yaml: .*gate needs scorer: \{\}"),
        ("extends: base\nscorer: {}\ngate: aut\n", r"top.yaml: gate: must be auto, \{quality: 0.6\} or \{score: 0.6\}"),
        ("extends: base\nscorer: {}\ngate: [auto]\n", r"top.yaml: gate: must be auto, \{quality: 0.6\} or"),
        (
            "extends: base\nscorer: {}\ngate: {qualty: 0.6}\n",
            r"unknown key gate.qualty \(did you mean quality\?\); allowed here: quality, score",
        ),
        ("extends: base\nscorer: {parts: [similarity]}\ngate: auto\n", r"gate: auto needs quality or alignment among"),
        ("extends: base\nscorer: {parts: []}\n", r"scorer.parts: .*at least 1 item"),
        ("extends: base\nscorer: {parts: [quality, clip]}\n", r"scorer.parts.*'quality', 'alignment' or 'similarity'"),
        ("extends: base\nscorer: {parts: [quality, quality]}\n", r"scorer.parts: .*name each part once"),
        ("extends: base\ntext_to_image: {steps: 2}\n", r"text_to_image.model: Field required"),
        ("extends: base\ntext_to_image: {model: m, steps: 0}\n", r"text_to_image.steps: .*greater than or equal to 1"),
        ("extends: base\ntext_to_image: {model: m, cfg: 0}\n", r"text_to_image.cfg; allowed here: model, steps, guid"),
        ("extends: base\ntext_to_image: {model: m, guidance: -1}\n", r"text_to_image.guidance: .*greater than or eq"),
        ("extends: base\ntext: {checkpoint: x}\ntext_to_image: {model: m}\n", r"text and text_to_image: .*leave one"),
        (
            "extends: base\nimage: null\ntext_to_image: {model: m}\n",
            r"top.yaml: .*needs image: \{checkpoint: ...\}, text:",
        ),
        ("note: alone\n", r"top.yaml: sparse_structure_sampler_params: Field required"),
        ("{", r"top.yaml cannot be read as YAML"),
        ("- base\n", r"top.yaml must hold keys and values"),
        ("[" * 3000, r"top.yaml cannot be read as YAML"),
    ],
)
def test_a_mistake_names_file_key_and_what_is_allowed(config: Path, content: str, message: str) -> None:
    write(config, "top", content)
    with pytest.raises(OperatorError, match=message) as caught:
        load_phase("top", config)
    assert "\n" not in str(caught.value)


def test_a_circle_of_several_is_told_in_full(config: Path) -> None:
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a")):
        write(config, name, f"extends: {parent}\n")
    with pytest.raises(OperatorError, match=r"c.yaml: extends: .* in a circle: a -> b -> c -> a"):
        load_phase("a", config)


def test_a_mistake_in_what_is_extended_is_told_of_the_file_it_is_in(config: Path) -> None:
    write(config, "base", COMPLETE.replace("steps: 9", "steps: 0").replace("u2netp", "u3net"))
    write(config, "top", "extends: base\nfaze: 1\nslat_sampler_params: {steps: -1}\n")
    with pytest.raises(OperatorError) as caught:
        load_phase("top", config)
    told = str(caught.value)
    base, top = (told.index(str(config.parent / "phases" / f"{name}.yaml")) for name in ("base", "top"))
    of_base, of_top = (told[base:top], told[top:]) if base < top else (told[base:], told[top:base])
    assert "sparse_structure_sampler_params.steps" in of_base
    assert "background.model" in of_base
    assert "unknown key faze" in of_top
    assert "slat_sampler_params.steps: Input should be greater" in of_top


@pytest.mark.parametrize(
    ("name", "unanswered"),
    [
        *((name, ()) for name in ("phase3", "phase4", "baseline", "test3", "demo", "best-of-n")),
        ("few-step", ("text",)),
    ],
)
def test_the_shipped_phases_answer_what_is_asked(name: str, unanswered: tuple[str, ...]) -> None:
    phase = load_phase(name, shipped_config() / "miner.yaml").settings
    assert phase.unanswered == unanswered
    assert phase.background.provider == ("cpu" if name == "demo" else "auto")

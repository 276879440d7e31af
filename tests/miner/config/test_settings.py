from __future__ import annotations

from pathlib import Path

import pytest

from miner.errors import OperatorError


def load(*arguments: str) -> Settings:
    return run_settings(*arguments)


def test_without_arguments_the_shipped_phase3_runs_on_finney() -> None:
    settings = load()
    assert (settings.netuid, settings.network, settings.configured.name) == (17, "finney", "phase3")
    structure, latents = (
        settings.configured.settings.sparse_structure_sampler_params,
        settings.configured.settings.slat_sampler_params,
    )
    assert (structure.steps, structure.cfg_strength) == (50, 9.0)
    assert (latents.steps, latents.cfg_strength) == (35, 4.0)
    assert structure.params().cfg_interval == (0.5, 1.0)
    assert settings.configured.settings.background.model != "bria-rmbg"


def test_standard_bittensor_flags() -> None:
    settings = load(
        *("--netuid", "18", "--wallet.name", "w", "--wallet.hotkey", "h", "--wallet.path", "/p"),
        *("--subtensor.network", "test", "--axon.port", "9000", "--axon.external_ip", "1.2.3.4", "--logging.debug"),
    )
    assert (settings.netuid, settings.wallet_name, settings.wallet_hotkey) == (18, "w", "h")
    assert (settings.axon_port, settings.axon_external_ip, settings.chain_file) == (9000, "1.2.3.4", None)


def test_chain_endpoint_overrides_network() -> None:
    assert load("--subtensor.chain_endpoint", "ws://host:9944").network == "ws://host:9944"


def test_demo_checkpoint_is_refused_on_a_live_network() -> None:
    with pytest.raises(OperatorError, match="toy checkpoint"):
        load("--phase", "demo")
    assert load("--phase", "demo", "--subtensor.network", "file:x.json").chain_file == Path("x.json")
    assert load("--phase", "demo", "--allow-demo-checkpoint").configured.name == "demo"


@pytest.mark.parametrize("missing", ["image", "text"])
def test_either_of_the_embedded_checkpoints_is_refused_on_a_live_network(config_folder: Path, missing: str) -> None:
    (config_folder / "phases" / "toy.yaml").write_text(f"extends: demo\n{missing}: null\n")
    with pytest.raises(OperatorError, match="toy checkpoint"):
        load("--config", str(config_folder / "miner.yaml"), "--phase", "toy")


def test_unknown_phase_lists_those_there_are() -> None:
    with pytest.raises(OperatorError, match=r"no phase 'phase9'.*baseline, demo, few-step, phase3, test3"):
        load("--phase", "phase9")


def test_phase_beside_the_settings_file_comes_first(config_folder: Path) -> None:
    file = config_folder / "phases" / "phase3.yaml"
    file.write_text(file.read_text().replace("steps: 50", "steps: 7"))
    settings = load("--config", str(config_folder / "miner.yaml"))
    assert settings.configured.settings.sparse_structure_sampler_params.steps == 7


def test_settings_file_without_phases_falls_back_to_those_shipped(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("phase: phase3\nserving: {enabled: false}\n")
    settings = load("--config", str(tmp_path / "mine.yaml"))
    assert settings.configured.name == "phase3"
    assert not settings.miner.serving.enabled


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("miner.yaml", "phase: phase3", "phase: phase3\nfaze: 1", "unknown key faze; allowed here: phase, device"),
        ("miner.yaml", "queue_size: 16", "queue: 16", r"unknown key serving.queue; allowed here: enabled, queue_size"),
        ("miner.yaml", "queue_size: 16", "queue_size: many", "serving.queue_size: .*integer"),
        ("miner.yaml", "precision: auto", "precision: float8", "precision: .*'float16'"),
        ("miner.yaml", "phase: phase3", "phase: [", "cannot be read as YAML"),
        ("phases/phase3.yaml", "steps: 50", "steps: 0", "sparse_structure_sampler_params.steps: .*greater than"),
        ("phases/baseline.yaml", "[0.5, 1.0]", "[1.0, 0.5]", "cfg_interval: .*low <= high"),
        ("phases/baseline.yaml", "provider: cpu", "provider: tpu", "background.provider: .*'cuda'"),
        ("phases/baseline.yaml", "background:", "max_voxels: {count: 0}\nbackground:", "max_voxels.count: .*greater"),
        ("phases/baseline.yaml", "background:", "max_voxels: {count: 9, excess: x}\nbackground:", "excess: .*'drop'"),
        ("phases/baseline.yaml", "rescale_t: 3.0", "rescale_t: .nan", "rescale_t"),
        ("blacklist.yaml", "min_stake: 1000", "min_steak: 1000", "unknown key min_steak; allowed here: allow, "),
        (
            "blacklist.yaml",
            "allow: []",
            "allow: [{key: a}]",
            "unknown key allow.0.key; allowed here: hotkey, coldkey, uid",
        ),
        ("blacklist.yaml", "allow: []", "allow: [{uid: 1, until: 2026-02-30}]", "cannot be read as YAML: day is out"),
    ],
)
def test_a_mistake_names_file_key_and_what_is_allowed(
    config_folder: Path, file: str, old: str, new: str, message: str
) -> None:
    path = config_folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(OperatorError, match=message) as caught:
        load("--config", str(config_folder / "miner.yaml"))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_settings_file() -> None:
    with pytest.raises(OperatorError, match=r"nowhere.yaml does not exist"):
        load("--config", "nowhere.yaml")


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just text"])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.yaml").write_text(content)
    with pytest.raises(OperatorError, match="must hold keys and values"):
        load("--config", str(tmp_path / "m.yaml"))


@pytest.mark.parametrize(
    ("flag", "port"),
    [("--axon.port", "70000"), ("--axon.port", "1024"), ("--axon.external_port", "0"), ("--monitor.port", "65536")],
)
def test_impossible_ports(flag: str, port: str) -> None:
    with pytest.raises(OperatorError, match=rf"{flag} must be between"):
        load(flag, port)


def test_the_monitors_port_can_be_given_or_taken_away() -> None:
    assert (load().miner.monitor.enabled, load().miner.monitor.port) == (True, 10008)
    assert load("--monitor.port", "9000").miner.monitor.port == 9000
    assert not load("--monitor.port", "0").miner.monitor.enabled


def test_the_blacklist_beside_the_settings_file_comes_first(config_folder: Path) -> None:
    settings = load("--config", str(config_folder / "miner.yaml"))
    assert settings.rules_file == config_folder / "blacklist.yaml"
    settings.rules_file.unlink()
    assert load("--config", str(config_folder / "miner.yaml")).rules_file != config_folder / "blacklist.yaml"

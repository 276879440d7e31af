from pathlib import Path

import pytest

from miner.config.loader import shipped_config
from miner.config.run_settings import RunOptions, RunSettings
from miner.config.settings import OperatorFiles
from miner.errors import OperatorError
from tests.support.factories import run_settings

# The command line.


def test_without_arguments_the_shipped_phase3_runs_on_finney() -> None:
    settings = run_settings()
    assert (settings.options.netuid, settings.options.chain, settings.configured.name) == (17, "finney", "phase3")
    structure, latents = (
        settings.configured.settings.sparse_structure_sampler_params,
        settings.configured.settings.slat_sampler_params,
    )
    assert (structure.steps, structure.cfg_strength) == (50, 9.0)
    assert (latents.steps, latents.cfg_strength) == (35, 4.0)
    assert structure.cfg_interval == (0.5, 1.0)
    assert settings.configured.settings.background.model != "bria-rmbg"


def test_standard_bittensor_flags() -> None:
    options = run_settings(
        *("--netuid", "18", "--wallet.name", "w", "--wallet.hotkey", "h", "--wallet.path", "/p"),
        *("--subtensor.network", "test", "--axon.port", "9000", "--axon.external_ip", "1.2.3.4", "--logging.debug"),
    ).options
    assert (options.netuid, options.wallet_name, options.wallet_hotkey, options.wallet_path) == (18, "w", "h", "/p")
    assert (options.chain, options.chain_file) == ("test", None)
    assert (options.axon_port, options.axon_external_ip) == (9000, "1.2.3.4")


def test_chain_endpoint_overrides_network() -> None:
    assert run_settings("--subtensor.chain_endpoint", "ws://host:9944").options.chain == "ws://host:9944"


def test_demo_checkpoint_is_refused_on_a_live_network() -> None:
    with pytest.raises(OperatorError, match="toy checkpoint"):
        run_settings("--phase", "demo")
    assert run_settings("--phase", "demo", "--subtensor.network", "file:x.json").options.chain_file == Path("x.json")
    assert run_settings("--phase", "demo", "--allow-demo-checkpoint").configured.name == "demo"


@pytest.mark.parametrize("missing", ["image", "text"])
def test_either_of_the_embedded_checkpoints_is_refused_on_a_live_network(config_folder: Path, missing: str) -> None:
    (config_folder / "phases" / "toy.yaml").write_text(f"extends: demo\n{missing}: null\n")
    with pytest.raises(OperatorError, match="toy checkpoint"):
        run_settings("--config", str(config_folder / "miner.yaml"), "--phase", "toy")


def test_unknown_phase_lists_those_there_are() -> None:
    with pytest.raises(OperatorError, match=r"no phase 'phase9'.*best-of-n, demo, few-step, phase3, phase4, test3"):
        run_settings("--phase", "phase9")


def test_phase_beside_the_settings_file_comes_first(config_folder: Path) -> None:
    file = config_folder / "phases" / "phase3.yaml"
    file.write_text(file.read_text().replace("steps: 50", "steps: 7"))
    settings = run_settings("--config", str(config_folder / "miner.yaml"))
    assert settings.configured.settings.sparse_structure_sampler_params.steps == 7


def test_settings_file_without_phases_falls_back_to_those_shipped(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("phase: phase3\nserving: {enabled: false}\n")
    settings = run_settings("--config", str(tmp_path / "mine.yaml"))
    assert settings.configured.name == "phase3"
    assert not settings.miner.serving.enabled


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "miner.yaml",
            "phase: phase3",
            "phase: phase3\nfaze: 1",
            "unknown key faze; allowed here: phase, state_dir, ",
        ),
        (
            "miner.yaml",
            "queue_size: 16",
            "queue: 16",
            r"unknown key serving.queue \(did you mean queue_size\?\); allowed here: enabled",
        ),
        ("miner.yaml", "queue_size: 16", "queue_size: many", "serving.queue_size: .*integer"),
        ("miner.yaml", "excellent: 0.70", "excellent: 70", "bands.excellent: .*less than 1"),
        ("miner.yaml", "excellent: 0.70", "excellent: 0.60", "bands: .*each with a floor of its own"),
        ("miner.yaml", "precision: auto", "precision: float8", "precision: .*'float16'"),
        ("miner.yaml", "phase: phase3", "phase: [", "cannot be read as YAML"),
        ("phases/phase3.yaml", "steps: 50", "steps: 0", "sparse_structure_sampler_params.steps: .*greater than"),
        ("phases/baseline.yaml", "[0.5, 1.0]", "[1.0, 0.5]", "cfg_interval: .*low <= high"),
        ("phases/baseline.yaml", "provider: auto", "provider: tpu", "background.provider: .*'cuda'"),
        ("phases/baseline.yaml", "background:", "max_voxels: {count: 0}\nbackground:", "max_voxels.count: .*greater"),
        ("phases/baseline.yaml", "background:", "max_voxels: {count: 9, excess: x}\nbackground:", "excess: .*'drop'"),
        ("phases/baseline.yaml", "rescale_t: 3.0", "rescale_t: .nan", "rescale_t"),
        (
            "blacklist.yaml",
            "min_stake: 1000",
            "min_steak: 1000",
            r"unknown key min_steak \(did you mean min_stake\?\); allowed here: allow, ",
        ),
        (
            "blacklist.yaml",
            "allow: []",
            "allow: [{key: a}]",
            r"unknown key allow.0.key \(did you mean .*\); allowed here: hotkey, coldkey, uid",
        ),
        ("blacklist.yaml", "allow: []", "allow: [{uid: 1, until: 2026-02-30}]", "cannot be read as YAML: day is out"),
        (
            "blacklist.yaml",
            "deny_coldkeys: []",
            "deny_coldkeys: [5Typo]",
            "deny_coldkeys.0.coldkey: .*5Typo is no SS58",
        ),
        (
            "blacklist.yaml",
            "min_stake: 1000",
            "min_stake: 1000\ndeny_hotkeys: []",
            r"key 'deny_hotkeys' stands in line \d+ and again in line \d+: leave one of the two out",
        ),
        ("miner.yaml", "queue_size: 16", "queue_size: 16\n  queue_size: 17", "key 'queue_size' stands in line"),
        ("phases/phase3.yaml", "steps: 50", "steps: 50, steps: 40", "key 'steps' stands in line"),
    ],
)
def test_a_mistake_names_file_key_and_what_is_allowed(
    config_folder: Path, file: str, old: str, new: str, message: str
) -> None:
    path = config_folder / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(OperatorError, match=message) as caught:
        run_settings("--config", str(config_folder / "miner.yaml"))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["!!bool 3", "!!timestamp z", "!!int ''", "!!float x"])
def test_a_value_that_does_not_fit_its_tag(tmp_path: Path, value: str) -> None:
    (tmp_path / "m.yaml").write_text(f"phase: {value}\n")
    with pytest.raises(OperatorError, match=r"m.yaml cannot be read as YAML"):
        run_settings("--config", str(tmp_path / "m.yaml"))


def test_missing_settings_file() -> None:
    with pytest.raises(OperatorError, match=r"nowhere.yaml does not exist"):
        run_settings("--config", "nowhere.yaml")


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "just text"])
def test_a_file_that_is_no_mapping(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.yaml").write_text(content)
    with pytest.raises(OperatorError, match="must hold keys and values"):
        run_settings("--config", str(tmp_path / "m.yaml"))


@pytest.mark.parametrize(
    ("flag", "port"),
    [("--axon.port", "70000"), ("--axon.port", "1024"), ("--axon.external_port", "0"), ("--monitor.port", "65536")],
)
def test_impossible_ports(flag: str, port: str) -> None:
    with pytest.raises(OperatorError, match=rf"{flag} must be between"):
        run_settings(flag, port)


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "127.0.0.1", "192.168.1.7", "10.0.0.4", "169.254.0.1", "224.0.0.1", "::1"]
)
def test_an_external_ip_that_validators_cannot_reach(address: str) -> None:
    with pytest.raises(OperatorError, match=rf"--axon.external_ip {address} .*reach"):
        run_settings("--axon.external_ip", address)


@pytest.mark.parametrize("address", ["miner.example.org", "8.8.8", "8.8.8.8:8091", "8.8.8.8 ", "", "2606:4700::1%eth0"])
def test_an_external_ip_that_is_no_address(address: str) -> None:
    with pytest.raises(OperatorError, match=r"--axon.external_ip must be an IP address"):
        run_settings("--axon.external_ip", address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111"])
def test_external_ips_that_can_be_announced(address: str) -> None:
    assert run_settings("--axon.external_ip", address).options.axon_external_ip == address


def test_a_chain_of_ones_own_has_private_addresses(tmp_path: Path) -> None:
    for network in ("ws://127.0.0.1:9944", "local", f"file:{tmp_path}/chain.json"):
        settings = run_settings("--subtensor.network", network, "--axon.external_ip", "192.168.1.7")
        assert settings.options.axon_external_ip == "192.168.1.7"
        with pytest.raises(OperatorError, match="cannot reach"):
            run_settings("--subtensor.network", network, "--axon.external_ip", "0.0.0.0")


@pytest.mark.parametrize(
    ("given", "used"), [("::", "::"), ("[::]", "::"), ("0.0.0.0", "0.0.0.0"), ("10.0.0.4", "10.0.0.4")]
)
def test_addresses_to_listen_on(given: str, used: str) -> None:
    assert run_settings("--axon.ip", given).options.axon_ip == used


@pytest.mark.parametrize("address", ["miner.example.org", "", "8.8.8.8:8091", "224.0.0.1"])
def test_what_the_axon_cannot_listen_on(address: str) -> None:
    with pytest.raises(OperatorError, match=r"--axon.ip must be an IP address of this machine"):
        run_settings("--axon.ip", address)


def test_the_monitors_port_can_be_given_or_taken_away() -> None:
    assert (run_settings().miner.monitor.enabled, run_settings().miner.monitor.port) == (True, 10008)
    assert run_settings("--monitor.port", "9000").miner.monitor.port == 9000
    assert not run_settings("--monitor.port", "0").miner.monitor.enabled


def test_the_blacklist_beside_the_settings_file_comes_first(config_folder: Path) -> None:
    settings = run_settings("--config", str(config_folder / "miner.yaml"))
    assert settings.files.blacklist == config_folder / "blacklist.yaml"
    settings.files.blacklist.unlink()
    assert settings.files.blacklist == shipped_config() / "blacklist.yaml"
    assert run_settings("--config", str(config_folder / "miner.yaml")).rules == settings.rules


def test_options_without_a_command_line_are_those_of_an_empty_one() -> None:
    assert RunSettings.load(RunOptions()) == run_settings()


def test_the_miners_settings_are_those_of_the_file_with_the_command_lines_changes() -> None:
    settings = run_settings("--monitor.port", "9000")
    assert settings.miner is settings.files.settings
    unchanged = OperatorFiles.load().settings
    assert settings.miner.model_copy(update={"monitor": unchanged.monitor}) == unchanged


@pytest.mark.parametrize("content", ["min_stake: many\n", "deny_hotkeys: [{coldkey: a}]\n"])
def test_a_broken_blacklist_is_found_at_the_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "miner.yaml").write_text("phase: phase3\n")
    (tmp_path / "blacklist.yaml").write_text(content)
    with pytest.raises(OperatorError, match=r"blacklist.yaml: "):
        RunSettings.load(RunOptions(config=tmp_path / "miner.yaml"))


def test_each_hotkey_and_subnet_has_its_own_cooldowns(tmp_path: Path) -> None:
    settings = RunSettings.load(RunOptions(netuid=3, state_dir=tmp_path))
    assert settings.cooldowns("5H") == tmp_path / "cooldowns-3-5H.json"


# The files.


def write_settings(folder: Path, content: str = "") -> Path:
    path = folder / "miner.yaml"
    path.write_text(f"phase: phase3\n{content}")
    return path


def test_the_shipped_settings_keep_everything_in_the_home_folder() -> None:
    files = OperatorFiles.load()
    assert files.config == shipped_config() / "miner.yaml"
    assert files.state_dir == Path("~/.local/state/sn17-miner").expanduser()
    assert files.ledger == files.state_dir / "ledger.sqlite"
    assert files.blacklist == shipped_config() / "blacklist.yaml"


def test_the_state_folder_of_the_settings_file(tmp_path: Path) -> None:
    files = OperatorFiles.load(write_settings(tmp_path, "state_dir: ~/elsewhere\n"))
    assert files.state_dir == Path("~/elsewhere").expanduser()
    assert files.ledger == files.state_dir / "ledger.sqlite"


def test_another_state_folder_takes_the_ledger_along(tmp_path: Path) -> None:
    config = write_settings(tmp_path, "state_dir: /elsewhere\n")
    files = OperatorFiles.load(config, tmp_path / "state")
    assert (files.state_dir, files.ledger) == (tmp_path / "state", tmp_path / "state" / "ledger.sqlite")
    assert run_settings("--config", str(config), "--state", str(tmp_path / "state")).files == files
    assert OperatorFiles.load(config, Path("~/mine")).state_dir == Path("~/mine").expanduser()


def test_a_ledger_with_a_path_of_its_own_stays_there(tmp_path: Path) -> None:
    config = write_settings(tmp_path, "ledger: {path: ~/tasks.sqlite}\n")
    assert OperatorFiles.load(config, tmp_path).ledger == Path("~/tasks.sqlite").expanduser()


def test_the_state_of_a_chain_file_is_kept_beside_it(tmp_path: Path) -> None:
    network = ("--subtensor.network", f"file:{tmp_path / 'chain.json'}")
    assert run_settings(*network).files.state_dir == tmp_path
    assert run_settings(*network, "--state", "/elsewhere").files.state_dir == Path("/elsewhere")


def test_the_first_releases_key_for_the_state_folder_is_read_and_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_settings(tmp_path, "pulling: {enabled: false, state_folder: /old}\n")
    settings = RunSettings.load(RunOptions(config=config))
    assert settings.files.state_dir == Path("/old")
    assert not settings.miner.pulling.enabled
    (line,) = [line for line in caplog.messages if "state_folder" in line]
    assert str(config) in line
    assert "its new name is state_dir" in line


def test_the_new_key_for_the_state_folder_wins(tmp_path: Path) -> None:
    config = write_settings(tmp_path, "state_dir: /new\npulling: {state_folder: /old}\n")
    assert OperatorFiles.load(config).state_dir == Path("/new")


@pytest.mark.parametrize("pulling", ["3", "[state_folder]", "null", "{state_folder: 3}"])
def test_nonsense_for_pulling_is_a_mistake_and_no_crash(tmp_path: Path, pulling: str) -> None:
    config = write_settings(tmp_path, f"pulling: {pulling}\n")
    with pytest.raises(OperatorError, match=r"miner.yaml: (pulling|state_dir)"):
        OperatorFiles.load(config)

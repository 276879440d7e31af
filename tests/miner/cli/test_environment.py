"""The environment variables of the Bittensor SDK."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bittensor.core import settings as sdk_settings

from miner.cli.environment import WITHOUT_EFFECT, default_chain, unused_variables
from tests.support.cli import run
from tests.support.factories import run_settings
from tests.support.paths import ROOT

OF_OPTIONS = {
    "BT_WALLET_NAME": ("wallet_name", "cold"),
    "BT_WALLET_HOTKEY": ("wallet_hotkey", "hot"),
    "BT_WALLET_PATH": ("wallet_path", "/wallets"),
    "BT_AXON_IP": ("axon_ip", "::"),
    "BT_AXON_PORT": ("axon_port", 9001),
    "BT_AXON_EXTERNAL_IP": ("axon_external_ip", "8.8.8.8"),
    "BT_AXON_EXTERNAL_PORT": ("axon_external_port", 9002),
    "BT_SUBTENSOR_NETWORK": ("network", "test"),
    "BT_SUBTENSOR_CHAIN_ENDPOINT": ("chain_endpoint", "ws://127.0.0.1:9944"),
}
# The first is an option of the command that no setting remembers; the SDK itself heeds the second.
OTHERS = {"BT_LOGGING_DEBUG", "BT_MEV_PROTECTION", "BT_LOGGING_INFO"}


def test_the_options_of_the_sdk_have_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (_, value) in OF_OPTIONS.items():
        monkeypatch.setenv(name, str(value))
    options = run_settings().options
    assert {name: getattr(options, field) for name, (field, _) in OF_OPTIONS.items()} == {
        name: value for name, (_, value) in OF_OPTIONS.items()
    }
    assert run_settings("--axon.port", "9003").options.axon_port == 9003
    shown = " ".join(run("run", "--help").stdout.split())
    assert all(f"env var: {name}" in shown for name in OF_OPTIONS)


def test_every_variable_of_the_installed_sdk_is_heeded_or_named() -> None:
    source = Path(sdk_settings.__file__).read_text()
    known = set(OF_OPTIONS) | set(WITHOUT_EFFECT) | OTHERS
    assert set(re.findall(r"\"(BT_\w+)\"", source)) <= known


def test_a_network_on_the_command_line_wins_over_an_endpoint_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BT_SUBTENSOR_CHAIN_ENDPOINT", "ws://elsewhere:9944")
    assert run_settings("--subtensor.network", "test").options.chain == "test"
    assert run_settings().options.chain == "ws://elsewhere:9944"
    both = ("--subtensor.network", "test", "--subtensor.chain_endpoint", "ws://here:9944")
    assert run_settings(*both).options.chain == "ws://here:9944"


def test_empty_variables_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*OF_OPTIONS, *WITHOUT_EFFECT):
        monkeypatch.setenv(name, "")
    assert run_settings().options.chain == "finney"
    assert list(unused_variables()) == []
    assert run("phase", "list").exit_code == 0


def test_commands_that_are_told_no_chain_take_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_chain() == "finney"
    monkeypatch.setenv("BT_SUBTENSOR_NETWORK", "test")
    assert default_chain() == "test"


def test_variables_without_effect_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BT_AXON_MAX_WORKERS", "4")
    monkeypatch.setenv("BT_LOGGING_LOGGING_DIR", "/var/log")
    first, second = unused_variables()
    assert "BT_AXON_MAX_WORKERS has no effect" in first
    assert "--state" in second


@pytest.mark.parametrize("name", ["BT_AXON_PORT", "BT_PRIORITY_MAXSIZE"])
def test_what_is_no_number_ends_every_command(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "many")
    done = run("phase", "list")
    assert (done.exit_code, done.stderr) == (
        2,
        f"ERROR: the environment variable {name} must be a whole number, not 'many': correct it\n",
    )


@pytest.mark.process
def test_the_sdk_does_not_parse_our_command_line() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "neurons" / "miner.py"), "--netuid", "17", "--axon.external_ip", "nowhere"],
        env=os.environ | {"BT_NO_PARSE_CLI_ARGS": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    warning, error = done.stderr.splitlines()
    assert "BT_NO_PARSE_CLI_ARGS has no effect" in warning
    assert "--axon.external_ip must be an IP address" in error

"""The pm2 file agrees with the program that it starts."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from miner.app import DRAIN_TIMEOUT, STOP_TIMEOUT
from miner.cli.run import run
from miner.errors import ExitCode
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def app() -> dict[str, Any]:
    """The one app: the object literal as JSON."""
    source = (ROOT / "ecosystem.config.js").read_text()
    literal = re.fullmatch(r"module\.exports = (\{.*\});\s*", re.sub(r"^\s*//.*\n", "", source, flags=re.M), re.S)
    assert literal is not None
    # Template strings first, then the bare name.
    source = re.sub(r"`([^`]*)`", r'"\1"', literal[1]).replace("${__dirname}", "/checkout")
    quoted = re.sub(r"(\w+):(?= )", r'"\1":', source).replace("__dirname", '"/checkout"')
    (app,) = json.loads(re.sub(r",(\s*[}\]])", r"\1", quoted))["apps"]
    assert isinstance(app, dict)
    return app


@pytest.mark.process
@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
def test_node_reads_it_from_any_folder(tmp_path: Path) -> None:
    print_app = f"console.log(JSON.stringify(require({json.dumps(str(ROOT / 'ecosystem.config.js'))}).apps[0]))"
    done = subprocess.run(["node", "-e", print_app], cwd=tmp_path, capture_output=True, text=True, check=True)
    read = json.loads(done.stdout)
    assert (read["script"], read["cwd"]) == (str(ROOT / "neurons" / "miner.py"), str(ROOT))
    assert read["interpreter"] == f"{ROOT}/.venv/bin/python"


def test_exit_codes_that_a_restart_does_not_help_stop_it(app: dict[str, Any]) -> None:
    assert app["stop_exit_codes"] == [ExitCode.OPERATOR_MISTAKE, ExitCode.NOT_REGISTERED]
    assert ExitCode.FAILURE not in app["stop_exit_codes"]
    assert app["autorestart"] is True


def test_it_is_killed_only_after_the_tasks_in_hand_had_their_time(app: dict[str, Any]) -> None:
    # The axon closes meanwhile, and the process has to end.
    assert app["kill_timeout"] >= 1000 * (DRAIN_TIMEOUT + STOP_TIMEOUT) + 10_000


def test_restarts_are_limited_and_back_off(app: dict[str, Any]) -> None:
    assert 0 < app["exp_backoff_restart_delay"] <= 1000
    assert app["max_restarts"] > 10
    assert app["min_uptime"] >= 60_000


def test_it_starts_the_miner_with_arguments_that_exist(app: dict[str, Any]) -> None:
    assert app["cwd"] == "/checkout"
    # pm2 resolves relative paths from the folder that it is started in.
    assert app["script"] == "/checkout/neurons/miner.py"
    assert app["interpreter"] == "/checkout/.venv/bin/python"
    assert run.make_context("run", shlex.split(app["args"])).params["netuid"] == 17
    documented = set(re.findall(r"--[\w.]+", (ROOT / "ecosystem.config.js").read_text()))
    assert documented <= {option for parameter in run.params for option in parameter.opts} | {"--help"}

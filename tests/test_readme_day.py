"""The commands of the README's change of settings run one after the other, and print what it shows."""

import re
import time
from pathlib import Path

import pytest

from miner.config import shipped_config
from miner.localnet import free_port
from miner.localnet.synthetic_ledger import TASKS_PER_HOUR, fill_ledger
from tests.support.cli import run
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## A change of settings")[2].partition("\n## ")[0]
COMMANDS, DIFF, SHOWN = re.findall(r"```(?:bash)?\n(.*?)```", SECTION, re.DOTALL)
TASKS = 900


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of an operator: settings, the phase, and a ledger that ends now."""
    (tmp_path / "config" / "phases").mkdir(parents=True)
    settings = (shipped_config() / "miner.yaml").read_text(encoding="utf-8")
    # Another miner may be running on this machine.
    settings = settings.replace("port: 10008", f"port: {free_port()}")
    (tmp_path / "config" / "miner.yaml").write_text(settings)
    phase = re.search(r"cat > (\S+) <<'END'\n(.*?)END\n", COMMANDS, re.DOTALL)
    assert phase is not None
    (tmp_path / phase[1]).write_text(phase[2])
    (tmp_path / "state").mkdir()
    fill_ledger(tmp_path / "state" / "ledger.sqlite", TASKS, start=time.time() - TASKS / TASKS_PER_HOUR * 3600)
    return tmp_path


def test_the_commands_do_what_the_section_says(folder: Path) -> None:
    lines = [line.partition(" #")[0] for line in COMMANDS.splitlines() if line.startswith("sn17-miner ")]
    # No miner runs here, so that a change waits for the next start, and nothing is to be followed.
    codes = {"apply": 1, "split": 1, "rollback": 2, "status": 1}
    printed = {}
    for line in lines:
        words = line.replace("tail -f", "tail").split()[1:]
        result = run(*words, "--config", folder / "config" / "miner.yaml", "--state", folder / "state")
        name = words[1] if words[0] == "phase" else words[0]
        assert result.exit_code == codes.get(name, 0), result.output
        printed[name] = result.stdout
    assert set(printed) == {"diff", "apply", "status", "tail", "report", "rollback", "split"}
    assert printed["diff"] == DIFF
    # What is shown of the others has the columns that they print.
    shown = SHOWN.splitlines()
    (report,) = (line for line in shown if line.startswith("by phase"))
    assert set(report.split()) <= set(printed["report"].split())
    assert "against phase3 1a2b3c4d" in printed["report"]
    (tail,) = (line for line in shown if line.startswith("answered, UTC"))
    assert tail in printed["tail"].splitlines()
    assert printed["apply"].startswith("To run: phase mine (c45ddd83b780)")
    assert {line.removeprefix("$ ").removesuffix(" -f") for line in shown if line.startswith("$ ")} <= {
        line.strip().removesuffix(" -f") for line in lines
    }

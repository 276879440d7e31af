"""What holds for all developers' commands."""

import importlib
import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SOURCES = sorted((ROOT / "scripts").rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in SOURCES
    if 'if __name__ == "__main__":' in path.read_text()
]
# By the name that each is run with: a package is run as its __main__.
COMMANDS = {module.removesuffix(".__main__"): module for module in MODULES}
# The GPU machine has neither bittensor nor rembg.
GPU_COMMANDS = ["scripts.benchmarks.generation"]
GPU_COMMANDS += [
    f"scripts.validation.{name}" for name in ("candidates", "determinism", "memory", "precision", "swap", "workers")
]
# What a command imports that is not everywhere.
PACKAGES = {"scripts.validation.kernels": "triton", "scripts.supply_chain.bom": "cyclonedx"}


def test_there_are_commands() -> None:
    assert {"scripts.parity", "scripts.demo", "scripts.train_tiny.train", *GPU_COMMANDS} <= COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_names_itself_and_has_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if command in PACKAGES:
        pytest.importorskip(PACKAGES[command])
    module = importlib.import_module(COMMANDS[command])
    assert f"python -m {command}" in (module.__doc__ or "")
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as exit_:
        module.main()
    assert exit_.value.code == 0
    assert f"python -m {command}" in capsys.readouterr().out


@pytest.mark.parametrize("record", sorted((ROOT / "scripts").rglob("*.md")), ids=lambda path: path.stem)
def test_records_name_commands_that_exist(record: object) -> None:
    text = record.read_text()  # type: ignore[attr-defined]
    assert set(re.findall(r"python -m (scripts[\w.]+)", text)) <= COMMANDS.keys()
    assert not re.search(r"python scripts/|scripts/proofs|adversary", text)


def test_no_script_changes_the_path_of_imports() -> None:
    for path in SOURCES:
        assert not re.search(r"sys\.path|__file__", path.read_text()), path


@pytest.mark.process
def test_commands_of_the_gpu_machine_need_neither_bittensor_nor_rembg() -> None:
    imports = "; ".join(f"import {command}" for command in GPU_COMMANDS)
    code = f"import sys; sys.modules.update(bittensor=None, rembg=None, onnxruntime=None); {imports}"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from miner.chain import FileChain, Neuron, SubtensorChain, open_chain
from miner.errors import ChainError, OperatorError
from miner.localnet import write_chain_file


def test_all_but_the_keys_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "chain.json"
    path.write_text(json.dumps({"neurons": [{"hotkey": "h0", "coldkey": "c0"}, {"hotkey": "h1", "coldkey": "c1"}]}))
    snapshot = FileChain(path, 17).snapshot()
    assert snapshot.neurons[1] == Neuron(uid=1, hotkey="h1", coldkey="c1", stake=0, validator_permit=False, port=0)
    assert not snapshot.neurons[0].is_serving
    assert snapshot.find("h1") is snapshot.neurons[1]
    assert snapshot.find("h2") is None


def test_file_is_read_again_at_each_call(tmp_path: Path) -> None:
    path = tmp_path / "chain.json"
    chain = open_chain(f"file:{path}", 17)
    write_chain_file(path, [Neuron(uid=0, hotkey="h", coldkey="c", stake=2.5, ip="1.2.3.4", port=8091)])
    assert chain.snapshot().neurons[0].is_serving
    write_chain_file(path, [], block=1001)
    assert chain.snapshot().block == 1001


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("{", "cannot be read as JSON"),
        ("[]", 'must be {"netuid"'),
        ('{"neurons": 3}', 'must be {"netuid"'),
        ('{"neurons": [{"hotkey": "h"}]}', "a neuron with coldkey"),
        ('{"neurons": [{"hotkey": "h", "coldkey": "c", "stake": "much"}]}', "a neuron with stake"),
        ('{"netuid": 18, "neurons": []}', "is of netuid 18, not 17"),
    ],
)
def test_a_bad_file_is_the_operators_mistake(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "chain.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OperatorError, match=message) as caught:
        FileChain(path, 17).snapshot()
    assert str(path) in str(caught.value)


class ScriptedSubtensor:
    """Stands for the chain's end of the wire: answers from a script."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers

    def metagraph(self, netuid: int) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def metagraph(stakes: list[float]) -> SimpleNamespace:
    return SimpleNamespace(
        hotkeys=["h0", "h1"],
        coldkeys=["c0", "c1"],
        S=stakes,
        I=[0.5, 0.0],
        validator_permit=[True, False],
        axons=[SimpleNamespace(ip="1.1.1.1", port=8091), SimpleNamespace(ip="0.0.0.0", port=0)],
        block=7,
    )


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedSubtensor]:
    """Subtensors in the order in which connections are made."""
    made: list[ScriptedSubtensor] = []
    monkeypatch.setattr("miner.chain.bt.Subtensor", lambda network: made.pop(0))
    return made


def test_metagraph_becomes_a_snapshot(connections: list[ScriptedSubtensor]) -> None:
    connections.append(ScriptedSubtensor([metagraph([10.0, 0.0])]))
    snapshot = SubtensorChain("finney", 17).snapshot()
    assert (snapshot.netuid, snapshot.block) == (17, 7)
    assert snapshot.neurons[0] == Neuron(
        uid=0, hotkey="h0", coldkey="c0", stake=10, validator_permit=True, ip="1.1.1.1", port=8091, incentive=0.5
    )
    assert not snapshot.neurons[1].is_serving


def test_a_metagraph_without_stakes_is_refused(connections: list[ScriptedSubtensor]) -> None:
    connections.append(ScriptedSubtensor([metagraph([])]))
    with pytest.raises(ChainError, match="0 stakes for 2 neurons"):
        SubtensorChain("finney", 17).snapshot()


def test_a_broken_connection_is_made_anew(connections: list[ScriptedSubtensor]) -> None:
    connections += [ScriptedSubtensor([ConnectionError("gone")]), ScriptedSubtensor([metagraph([1.0, 1.0])])]
    chain = SubtensorChain("finney", 17)
    with pytest.raises(ChainError, match="finney cannot be read: ConnectionError: gone"):
        chain.snapshot()
    assert len(chain.snapshot().neurons) == 2

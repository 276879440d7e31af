import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from miner.errors import ChainError, OperatorError
from miner.localnet.validator import write_chain_file
from miner.subnet.metagraph import FileChain, Neuron, SavingChain, Snapshot, SubtensorChain, open_chain, read_snapshot
from tests.support.addresses import address

A, B, C = map(address, "abc")


def test_all_but_the_keys_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "chain.json"
    path.write_text(json.dumps({"neurons": [{"hotkey": A, "coldkey": C}, {"hotkey": B, "coldkey": C}]}, indent="\t"))
    snapshot = FileChain(path, 17).snapshot()
    assert snapshot.neurons[1] == Neuron(uid=1, hotkey=B, coldkey=C, stake=0, validator_permit=False, port=0)
    assert not snapshot.neurons[0].is_serving
    assert snapshot.find(B) is snapshot.neurons[1]
    assert snapshot.find(C) is None


def test_a_file_may_be_yaml(tmp_path: Path) -> None:
    path = tmp_path / "chain.yaml"
    path.write_text(f"# by hand\nblock: 7\nneurons:\n- {{hotkey: {A}, coldkey: {C}, stake: 1.5}}\n")
    assert FileChain(path, 17).snapshot() == Snapshot(17, 7, (Neuron(uid=0, hotkey=A, coldkey=C, stake=1.5),))


def test_file_is_read_again_at_each_call(tmp_path: Path) -> None:
    path = tmp_path / "chain.json"
    chain = open_chain(f"file:{path}", 17)
    write_chain_file(path, [Neuron(uid=0, hotkey=A, coldkey=C, stake=2.5, ip="1.2.3.4", port=8091)])
    assert chain.snapshot().neurons[0].is_serving
    write_chain_file(path, [], block=1001)
    assert chain.snapshot().block == 1001


def test_what_was_seen_is_kept_if_possible(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_chain_file(tmp_path / "chain.json", [Neuron(uid=0, hotkey=A, coldkey=C, stake=2.5)], block=9)
    kept = tmp_path / "kept.json"
    chain = SavingChain(FileChain(tmp_path / "chain.json", 17), kept)
    snapshot = chain.snapshot()
    assert read_snapshot(kept, 17) == snapshot
    kept.unlink()
    kept.mkdir()
    (kept / "in the way").touch()
    assert chain.snapshot() == snapshot
    assert f"The metagraph is not kept in {kept}" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("{", "cannot be read as JSON"),
        ("[]", 'must be {"netuid"'),
        ('{"neurons": 3}', 'must be {"netuid"'),
        ('{"neurons": [{"hotkey": "h"}]}', "an invalid neuron: coldkey"),
        ('{"neurons": [{"hotkey": "h", "coldkey": "c", "stake": "much"}]}', "an invalid neuron: stake"),
        ('{"block": 1e999, "neurons": []}', 'must be {"netuid"'),
        (
            f'{{"neurons": [{{"hotkey": "{A}", "coldkey": "{C}"}}, {{"hotkey": "{A}", "coldkey": "{B}"}}]}}',
            "neurons.1.hotkey: .* is that of neurons.0, too",
        ),
        ('{"netuid": 18, "neurons": []}', "is for netuid 18, not 17"),
        (f'{{"neurons": [{{"hotkey": "{A[:-1]}x", "coldkey": "{C}"}}]}}', r"neurons.0.hotkey: 5\w+ is no SS58 address"),
        (f'{{"neurons": [{{"hotkey": "{A}", "coldkey": "c"}}]}}', r"neurons.0.coldkey: c is no SS58 address"),
        (
            f'{{"neurons": [{{\n\t"hotkey": "{A}",\n\t"stake": 1,\n\t"coldkey": "{C}",\n\t"stake": 2}}]}}',
            "key 'stake' stands in line 3 and again in line 5",
        ),
        (f"neurons:\n- hotkey: {A}\n  hotkey: {B}\n", "key 'hotkey' stands in line 2 and again in line 3"),
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

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.closed = False

    def _answer(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def metagraph(self, netuid: int) -> Any:
        return self._answer()

    def serve_axon(self, netuid: int, axon: Any) -> Any:
        return self._answer()

    def close(self) -> None:
        self.closed = True


def metagraph(**changes: Any) -> SimpleNamespace:
    whole = {
        "hotkeys": ["h0", "h1"],
        "coldkeys": ["c0", "c1"],
        "S": [10.0, 0.0],
        "I": [0.5, 0.0],
        "validator_permit": [True, False],
        "axons": [SimpleNamespace(ip="1.1.1.1", port=8091), SimpleNamespace(ip="0.0.0.0", port=0)],
        "block": 7,
    }
    return SimpleNamespace(**(whole | changes))


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedSubtensor]:
    """Subtensors in the order in which connections are made."""
    made: list[ScriptedSubtensor] = []
    monkeypatch.setattr("bittensor.Subtensor", lambda network: made.pop(0))
    return made


def test_metagraph_becomes_a_snapshot(connections: list[ScriptedSubtensor]) -> None:
    connections.append(ScriptedSubtensor(metagraph()))
    snapshot = SubtensorChain("finney", 17).snapshot()
    assert (snapshot.netuid, snapshot.block) == (17, 7)
    assert snapshot.neurons[0] == Neuron(
        uid=0, hotkey="h0", coldkey="c0", stake=10, validator_permit=True, ip="1.1.1.1", port=8091, incentive=0.5
    )
    assert not snapshot.neurons[1].is_serving


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"S": []}, "0 stakes for 2 neurons"),
        ({"S": [1.0, 2.0, 3.0]}, "3 stakes for 2 neurons"),
        ({"validator_permit": [True]}, "1 validator permits for 2 neurons"),
        ({"axons": []}, "0 axons for 2 neurons"),
        ({"hotkeys": [], "coldkeys": [], "S": [], "I": [], "validator_permit": [], "axons": []}, "for 0 neurons"),
    ],
)
def test_an_incomplete_metagraph_is_refused(
    connections: list[ScriptedSubtensor], changes: dict[str, Any], message: str
) -> None:
    connections.append(ScriptedSubtensor(metagraph(**changes)))
    with pytest.raises(ChainError, match=f"finney cannot be read: incomplete metagraph, .*{message}"):
        SubtensorChain("finney", 17).snapshot()


def test_a_connection_is_kept_until_it_failed_twice_in_a_row(connections: list[ScriptedSubtensor]) -> None:
    first = ScriptedSubtensor(ConnectionError("hiccup"), metagraph(), ConnectionError("gone"), metagraph(S=[]))
    second = ScriptedSubtensor(metagraph())
    connections += [first, second]
    chain = SubtensorChain("finney", 17)
    outcomes = []
    for _ in range(5):
        try:
            outcomes.append(len(chain.snapshot().neurons))
        except ChainError as error:
            outcomes.append(str(error).rsplit(": ", 1)[1])
    assert outcomes == ["hiccup", 2, "gone", "incomplete metagraph, 0 stakes for 2 neurons", 2]
    assert (first.closed, second.closed, connections) == (True, False, [])


def test_a_chain_that_cannot_be_reached_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(network: str) -> None:
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr("bittensor.Subtensor", refuse)
    chain = SubtensorChain("finney", 17)
    for _ in range(3):
        with pytest.raises(ChainError, match="ConnectionRefusedError: nobody there") as caught:
            chain.snapshot()
        assert caught.value.exit_code == 1


def test_announcing_fails_with_the_chains_reason(connections: list[ScriptedSubtensor]) -> None:
    refused = SimpleNamespace(success=False, message="too soon")
    connections.append(ScriptedSubtensor(refused, SimpleNamespace(success=True, message="")))
    chain = SubtensorChain("finney", 17)
    with pytest.raises(ChainError, match="could not be announced: too soon"):
        chain.announce(None)  # type: ignore[arg-type]
    chain.announce(None)  # type: ignore[arg-type]

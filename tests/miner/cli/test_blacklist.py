import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bittensor as bt
import pytest

from miner.analytics.rating import AcceptanceRate
from miner.cli.blacklist import MIN_OUTCOMES, suggest_denials
from miner.config.loader import load_yaml, shipped_config
from miner.config.policy import PolicyRules
from miner.ledger.events import PhaseAssignment, SubmissionAnswered, TaskStarted
from miner.ledger.outcomes import Outcome
from miner.ledger.writer import LedgerWriter
from miner.localnet.validator import write_chain_file
from miner.subnet.metagraph import Neuron, Snapshot, write_snapshot
from tests.support.addresses import address
from tests.support.cli import run as run_command

A, B, C = (bt.Keypair.create_from_uri(f"//{name}").ss58_address for name in "ABC")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The policy file beside a settings file."""
    (tmp_path / "miner.yaml").write_text(f"phase: phase3\nstate_dir: {tmp_path}\n")
    path = tmp_path / "blacklist.yaml"
    path.write_bytes((shipped_config() / "blacklist.yaml").read_bytes())
    return path


@pytest.fixture
def run(file: Path) -> Run:
    """`sn17-miner blacklist ARGUMENTS` for that settings file: exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        result = run_command("blacklist", "--config", file.with_name("miner.yaml"), *arguments)
        return result.exit_code, result.stdout, result.stderr

    return run


def rules(file: Path) -> PolicyRules:
    return load_yaml(file, PolicyRules)


def test_add_list_remove(run: Run, file: Path) -> None:
    before = file.read_text()
    assert run("add", A, "--reason", "rejects \n everything")[0] == 0
    assert run("add", B, "--coldkey", "--reason", "copies weights", "--until", "2036-01-31T13:00+01:00")[0] == 0
    assert run("add", C, "--allow", "--reason", "my own")[0] == 0
    written = rules(file)
    assert [(entry.hotkey, entry.reason) for entry in written.deny_hotkeys] == [(A, "rejects everything")]
    assert written.deny_coldkeys[0].until == datetime(2036, 1, 31, 12, tzinfo=UTC)
    assert [entry.hotkey for entry in written.allow] == [C]
    assert [line for line in before.splitlines() if "#" in line] == [
        line for line in file.read_text().splitlines() if "#" in line
    ]
    code, out, _ = run("list")
    assert code == 0
    assert f"deny_hotkeys   hotkey {A}: rejects everything\n" in out
    assert f"deny_coldkeys  coldkey {B}: copies weights, until 2036-01-31 12:00 UTC\n" in out
    assert f"allow          hotkey {C}: my own\n" in out
    assert "must hold a validator permit and have at least 1000 stake" in out
    for arguments in ((A,), (B,), (C, "--allow")):
        assert run("remove", *arguments)[0] == 0
    assert rules(file) == PolicyRules()
    assert run("list")[1].count("\n") == 1


def test_adding_again_changes_the_entry(run: Run, file: Path) -> None:
    run("add", A, "--reason", "one")
    run("add", B, "--reason", "other")
    code, out, _ = run("add", A, "--reason", "two", "--days", "7")
    assert (code, out.split()[0]) == (0, "Changed")
    changed = {entry.hotkey: entry for entry in rules(file).deny_hotkeys}
    assert changed[A].reason == "two"
    assert changed[B].reason == "other"
    until = changed[A].until
    assert until is not None
    assert abs(until - datetime.now(UTC) - timedelta(days=7)) < timedelta(minutes=1)


def test_what_is_over_is_shown_as_over(run: Run) -> None:
    run("add", A, "--reason", "r", "--until", "2020-01-01")
    assert "until 2020-01-01 00:00 UTC [over]" in run("list")[1]


def test_a_uid_becomes_the_hotkey_of_its_holder(run: Run, file: Path, tmp_path: Path) -> None:
    chain = tmp_path / "chain.json"
    write_chain_file(chain, [Neuron(uid=0, hotkey=A, coldkey=C), Neuron(uid=1, hotkey=B, coldkey=C)], block=77)
    network = ("--subtensor.network", f"file:{chain}", "--reason", "spam")
    code, out, _ = run("add", "1", "--uid", *network)
    assert code == 0
    assert f"uid 1 is hotkey {B} at block 77" in out
    (entry,) = rules(file).deny_hotkeys
    assert (entry.hotkey, entry.uid, entry.reason) == (B, None, "spam (uid 1 at block 77)")
    assert "nobody holds uid 9" in run("add", "9", "--uid", *network)[2]
    assert "no uid" in run("add", A, "--uid", *network)[2]


def known(folder: Path, *neurons: Neuron) -> None:
    """Keep a metagraph in the state folder, as a running miner does."""
    write_snapshot(folder / "seen-metagraph.json", Snapshot(17, 77, neurons))


def test_the_beginning_of_a_known_key_is_enough(run: Run, file: Path, tmp_path: Path) -> None:
    write_ledger(tmp_path / "ledger.sqlite", {A: (0, 1)})
    known(tmp_path, Neuron(uid=0, hotkey=B, coldkey=C))
    assert run("add", A[:8], "--reason", "of the ledger")[0] == 0
    assert run("add", B[:8], "--reason", "of the metagraph")[0] == 0
    assert run("add", C[:8], "--coldkey", "--reason", "of the metagraph")[0] == 0
    written = rules(file)
    assert [entry.hotkey for entry in written.deny_hotkeys] == [A, B]
    assert [entry.coldkey for entry in written.deny_coldkeys] == [C]
    before = file.read_bytes()
    for beginning, message in (
        ("5", f"several known keys begin with 5: {', '.join(sorted([A, B]))}"),
        (C[:8], "no known hotkey"),
    ):
        code, _, err = run("add", beginning, "--reason", "r")
        assert (code, message in err, file.read_bytes()) == (2, True, before)
    assert "several entries begin with 5" in run("remove", "5")[2]
    assert run("remove", A[:8])[0] == run("remove", C[:8])[0] == 0
    assert [entry.key for entry in rules(file).deny_hotkeys] == [B]


def test_a_uid_of_the_ledger_needs_no_chain(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the chain was asked")

    monkeypatch.setattr("bittensor.Subtensor", refuse)
    write_ledger(tmp_path / "ledger.sqlite", {A: (1, 1)})
    assert f"uid 3 is hotkey {A} on 1970-01-01" in run("add", "3", "--uid", "--reason", "r")[1]
    (entry,) = rules(file).deny_hotkeys
    assert (entry.hotkey, entry.reason) == (A, "r (uid 3 on 1970-01-01)")
    # The metagraph agrees, knows others, and at last disagrees.
    neurons = [Neuron(uid=uid, hotkey=hotkey, coldkey=C) for uid, hotkey in enumerate((B, C, address("D"), A))]
    known(tmp_path, *neurons)
    assert run("add", "3", "--uid", "--reason", "r")[0] == 0
    assert f"uid 0 is hotkey {B} at block 77" in run("add", "0", "--uid", "--reason", "r")[1]
    known(tmp_path, *neurons[:3], Neuron(uid=3, hotkey=address("E"), coldkey=C))
    code, _, err = run("add", "3", "--uid", "--reason", "r")
    assert code == 2
    assert f"uid 3 was {A} when the ledger recorded it on 1970-01-01, and is {address('E')} in the metagraph" in err


def test_the_list_says_whom_each_entry_affects(run: Run, file: Path, tmp_path: Path) -> None:
    known(
        tmp_path,
        Neuron(uid=0, hotkey=A, coldkey=C, stake=5000, validator_permit=True),
        Neuron(uid=1, hotkey=B, coldkey=C),
    )
    file.write_text(
        f"allow: [{B}]\ndeny_hotkeys: [{A}, 0, 7, {{hotkey: {A}, until: 2020-01-01}}]\ndeny_coldkeys: [{C}]\n"
    )
    a, b = f"{A} (uid 0, stake 5000, a permit)", f"{B} (uid 1, stake 0, no permit)"
    assert run("list")[1].splitlines() == [
        f"allow          hotkey {B}",
        f"                 now {b}",
        f"deny_hotkeys   hotkey {A}",
        f"                 now {a}",
        "deny_hotkeys   uid 0",
        f"                 now {a}",
        "deny_hotkeys   uid 7",
        "                 now nobody on the subnet",
        f"deny_hotkeys   hotkey {A}: until 2020-01-01 00:00 UTC [over]",
        "                 now nobody on the subnet",
        f"deny_coldkeys  coldkey {C}",
        f"                 now {a}",
        f"                 now {b}, but the allow list has it",
        "others         must hold a validator permit and have at least 1000 stake",
        f"               now as of block 77, which the miner on {tmp_path} saw last",
    ]


def test_a_damaged_metagraph_is_told_and_does_without(run: Run, tmp_path: Path) -> None:
    (tmp_path / "seen-metagraph.json").write_text("{")
    code, _, err = run("add", A, "--reason", "r")
    assert (code, "seen-metagraph.json cannot be read" in err) == (0, True)


def test_uids_written_by_hand_can_be_removed(run: Run, file: Path) -> None:
    file.write_text("deny_hotkeys:\n- 180\n- uid: 181\n")
    assert run("remove", "180")[0] == run("remove", "181")[0] == 0
    assert rules(file).deny_hotkeys == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "5Typo", "--reason", "r"), "5Typo is no SS58 address"),
        (("add", "180", "--reason", "r"), "a uid needs --uid"),
        (("add", A[:-1] + "x", "--reason", "r"), "is no SS58 address"),
        (("remove", A), "is not in deny_hotkeys or deny_coldkeys"),
        (("remove", A, "--allow"), "is not in allow"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(
    run: Run, file: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = file.read_bytes()
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", ["deny_hotkeys: [", "deny: []\n", None])
def test_a_file_that_is_broken_already_is_not_touched(run: Run, file: Path, content: str | None) -> None:
    file.unlink()
    if content is not None:
        file.write_text(content)
    code, _, err = run("add", A, "--reason", "r", "--file", file)
    assert code == 2
    assert str(file) in err
    assert not file.exists() if content is None else file.read_text() == content


def test_a_uid_of_thousands_of_digits_is_none(run: Run) -> None:
    code, _, err = run("add", "9" * 5000, "--uid", "--reason", "r")
    assert (code, "is no uid" in err) == (2, True)


def test_replacing_keeps_mode_and_link_and_leaves_nothing_behind(run: Run, file: Path) -> None:
    file.chmod(0o640)
    target = file.rename(file.with_name("real.yaml"))
    file.symlink_to(target)
    assert run("add", A, "--reason", "r")[0] == 0
    assert file.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert {path.name for path in file.parent.iterdir()} == {"real.yaml", "blacklist.yaml", "miner.yaml"}


def test_a_full_disk_loses_nothing(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device", str(file))

    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run("add", A, "--reason", "r")
    assert (code, "No space left" in err) == (2, True)
    assert file.read_bytes() == before
    assert {path.name for path in file.parent.iterdir()} == {"blacklist.yaml", "miner.yaml"}


@pytest.mark.parametrize(
    ("accepted", "rejected", "suggested"),
    [
        (0, MIN_OUTCOMES, True),
        (0, MIN_OUTCOMES - 1, False),
        (1, 49, False),
        (1, 99, True),
        (10, 90, False),
        (0, 0, False),
        (500, 500, False),
        (40, 960, True),
    ],
)
def test_suggestions_need_fifty_outcomes_and_an_interval_below_the_share(
    accepted: int, rejected: int, suggested: bool
) -> None:
    found = suggest_denials([(A, AcceptanceRate(accepted, accepted + rejected))], below=0.1)
    assert bool(found) is suggested
    if suggested:
        assert f"accepted {accepted} of {accepted + rejected}: " in found[0][1]


def write_ledger(path: Path, counts: dict[str, tuple[int, int]]) -> Path:
    """A ledger with so many accepted and rejected tasks of each validator, and one that nobody judged."""
    ledger = LedgerWriter(path)
    for hotkey, (accepted, rejected) in counts.items():
        for outcome in [Outcome.ACCEPTED] * accepted + [Outcome.REJECTED] * rejected + [Outcome.NOT_VALIDATED]:
            key = ledger.new_key()
            assignment = PhaseAssignment("phase3", "h", None)
            ledger.record(TaskStarted(key, 1.0, "pull", hotkey, 3, str(key), "image", assignment, "1"))
            ledger.record(SubmissionAnswered(key, 2.0, outcome, score=0.7))
    assert ledger.close(60)
    return path


def test_suggest_from_a_ledger(run: Run, file: Path, tmp_path: Path) -> None:
    path = write_ledger(tmp_path / "l.sqlite", {A: (0, 60), B: (30, 30), C: (0, 10)})
    code, out, _ = run("suggest", "--ledger", path)
    assert code == 0
    argument = "accepted 0 of 60: 0.0% to 6.0% at 95 % confidence"
    assert f"# {argument}\nsn17-miner blacklist add {A} --days 7 --reason '{argument}'\n" in out
    assert B not in out
    assert "1 of 3 validators with a rate surely below 10%; 1 with fewer than 50 outcomes" in out
    before = file.read_bytes()
    assert A in run("suggest", "--ledger", path, "--below", "0.9")[1]
    assert file.read_bytes() == before
    run("add", A, "--reason", "r")
    assert A not in run("suggest", "--ledger", path)[1]


def test_suggest_reads_the_ledger_of_the_settings_file(run: Run, file: Path, tmp_path: Path) -> None:
    write_ledger(tmp_path / "elsewhere.sqlite", {A: (0, 60)})
    with file.with_name("miner.yaml").open("a") as settings:
        settings.write(f"ledger: {{path: {tmp_path}/elsewhere.sqlite}}\n")
    assert A in run("suggest")[1]


def test_without_a_ledger_nothing_is_suggested(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("suggest")
    assert (code, f"There is no ledger {tmp_path}/ledger.sqlite yet" in out) == (0, True)
    assert not (tmp_path / "ledger.sqlite").exists()
    (tmp_path / "ledger.sqlite").touch()
    assert "0 of 0 validators" in run("suggest")[1]
    code, _, err = run("suggest", "--ledger", tmp_path / "none.sqlite")
    assert (code, "does not exist" in err) == (2, True)
    other = tmp_path / "text.sqlite"
    other.write_text("no database, but long enough to be looked at " * 100)
    code, _, err = run("suggest", "--ledger", other)
    assert (code, "cannot be read" in err) == (2, True)


def test_another_file(run: Run, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("deny_hotkeys: []\n")
    before = file.read_bytes()
    assert run("add", A, "--reason", "r", "--file", other)[0] == 0
    assert [entry.hotkey for entry in rules(other).deny_hotkeys] == [A]
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        ("--coldkey", "--uid"),
        ("--days", "7", "--until", "2036-01-31"),
        ("--until", "soon"),
        ("--until", "9999-12-31T23:59-12:00"),
        ("--until", "0001-01-01T00:00+14:00"),
        *(("--days", days) for days in ("0", "-1", "nan", "inf", "1e7", "1e300")),
    ],
)
def test_options_that_make_no_sense(run: Run, file: Path, options: tuple[str, ...]) -> None:
    before = file.read_bytes()
    assert run("add", A, "--reason", "r", *options)[0] == 2
    assert file.read_bytes() == before

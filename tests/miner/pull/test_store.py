import json
from pathlib import Path

import pytest

from miner.pull.store import Cooldown, CooldownStore, EarlierTask
from tests.support.factories import TwoClocks


@pytest.fixture
def clocks() -> TwoClocks:
    return TwoClocks()


@pytest.fixture
def store(tmp_path: Path) -> CooldownStore:
    return CooldownStore(tmp_path / "not" / "yet" / "there.json")


def another_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.pull.store._boot_id", lambda: "another")


def test_what_is_saved_is_loaded(store: CooldownStore, clocks: TwoClocks) -> None:
    assert store.load(clocks.clock) == {}
    task = EarlierTask(id="t", type="image", assigned_at=4990.0, submitted_at=4995.0)
    cooldowns = {"5A": Cooldown(cooldown_end=5300.0), "5B": Cooldown(cooldown_end=0, cooldown_seconds=300, task=task)}
    store.save(cooldowns, clocks.clock)
    assert store.load(clocks.clock) == cooldowns
    assert [path.name for path in store.path.parent.iterdir()] == ["there.json"]


@pytest.mark.parametrize("step", [-86_400.0, -36_000.0, 0.0, 36_000.0])
def test_a_wall_clock_that_steps_changes_nothing_while_the_machine_runs(
    store: CooldownStore, clocks: TwoClocks, step: float
) -> None:
    store.save({"5A": Cooldown(cooldown_end=5100.0)}, clocks.clock)
    clocks.steady, clocks.unix = 5020.0, clocks.unix + 20 + step
    assert store.load(clocks.clock)["5A"].cooldown_end == 5100.0


@pytest.mark.parametrize(("passed", "left"), [(60.0, 40.0), (500.0, -400.0), (-86_400.0, 100.0), (-36_000.0, 100.0)])
def test_after_a_reboot_the_wall_clock_tells_and_never_lengthens_a_cooldown(
    store: CooldownStore, clocks: TwoClocks, monkeypatch: pytest.MonkeyPatch, passed: float, left: float
) -> None:
    task = EarlierTask(id="t", assigned_at=4990.0)
    store.save({"5A": Cooldown(cooldown_end=5100.0, task=task)}, clocks.clock)
    another_boot(monkeypatch)
    clocks.steady, clocks.unix = 30.0, clocks.unix + passed
    loaded = store.load(clocks.clock)["5A"]
    assert loaded.cooldown_end - clocks.steady == left
    assert loaded.task is not None
    assert loaded.cooldown_end - loaded.task.assigned_at == 110.0


def test_files_of_earlier_releases_are_read(store: CooldownStore, clocks: TwoClocks) -> None:
    store.path.parent.mkdir(parents=True)
    old = {"pull_after": 1.7e9 + 100, "task_id": "t", "assigned_at": 1.7e9 - 5}
    store.path.write_text(json.dumps({"5A": old, "5B": {"pull_after": 0.0}}))
    loaded = store.load(clocks.clock)
    assert loaded["5A"] == Cooldown(cooldown_end=5100.0, task=EarlierTask(id="t", assigned_at=4995.0))
    assert loaded["5B"].cooldown_end < clocks.steady


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"5A": 3}', '{"5A": {"pull_after": NaN}}', "\ufffd\x00", '{"boot": "", "steady": 0, "wall": 0}'],
)
def test_a_damaged_file_is_as_good_as_none(
    tmp_path: Path, clocks: TwoClocks, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cooldowns.json"
    path.write_text(content)
    assert CooldownStore(path).load(clocks.clock) == {}
    assert str(path) in caplog.text


def test_later_versions_may_know_more(store: CooldownStore, clocks: TwoClocks) -> None:
    store.save({"5A": Cooldown(cooldown_end=5100.0)}, clocks.clock)
    content = json.loads(store.path.read_text())
    content["validators"]["5A"]["mood"] = content["weather"] = "good"
    store.path.write_text(json.dumps(content))
    assert store.load(clocks.clock) == {"5A": Cooldown(cooldown_end=5100.0)}


def test_a_disk_that_takes_nothing_is_no_obstacle(
    tmp_path: Path, clocks: TwoClocks, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    store = CooldownStore(tmp_path / "file" / "cooldowns.json")
    store.save({"5A": Cooldown(cooldown_end=1.0)}, clocks.clock)
    assert "cannot be written" in caplog.text
    assert store.load(clocks.clock) == {}


def test_text_that_no_file_can_hold_ends_nothing(
    store: CooldownStore, clocks: TwoClocks, caplog: pytest.LogCaptureFixture
) -> None:
    task = EarlierTask.model_construct(id="\ud800", type="text", assigned_at=1.0, submitted_at=None)
    store.save({"5A": Cooldown(cooldown_end=1.0, task=task)}, clocks.clock)
    assert "cannot be written" in caplog.text

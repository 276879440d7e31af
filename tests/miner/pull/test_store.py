from pathlib import Path

import pytest

from miner.pull.store import Cooldown, CooldownStore


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = CooldownStore(tmp_path / "not" / "yet" / "there.json")
    assert file.load() == {}
    cooldowns = {"5A": Cooldown(pull_after=1.5), "5B": Cooldown(pull_after=0, task_id="t", assigned_at=-2.0)}
    file.save(cooldowns)
    assert file.load() == cooldowns
    assert [path.name for path in file.path.parent.iterdir()] == ["there.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"5A": 3}', '{"5A": {"pull_after": NaN}}', "\ufffd\x00"])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cooldowns.json"
    path.write_text(content)
    assert CooldownStore(path).load() == {}
    assert str(path) in caplog.text


def test_later_versions_may_know_more(tmp_path: Path) -> None:
    path = tmp_path / "cooldowns.json"
    path.write_text('{"5A": {"pull_after": 3, "mood": "good"}}')
    assert CooldownStore(path).load() == {"5A": Cooldown(pull_after=3)}


def test_a_disk_that_takes_nothing_is_no_obstacle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    file = CooldownStore(tmp_path / "file" / "cooldowns.json")
    file.save({"5A": Cooldown(pull_after=1.0)})
    assert "cannot be written" in caplog.text
    assert file.load() == {}

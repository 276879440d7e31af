import hashlib
import re

from miner.monitor.dashboard import STATIC

VENDOR = STATIC / "vendor"
LIMIT = 6_000_000
NOTICE = (VENDOR / "THIRD_PARTY.md").read_text(encoding="utf-8")


def test_files_of_others_are_those_that_were_published() -> None:
    listed = dict(re.findall(r"^\| `([^`]+)` \| `[^`]+` \| ([0-9a-f]{64}) \|$", NOTICE, re.MULTILINE))
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.glob("*/*")
    }
    assert found == listed
    assert len(found) == 7


def test_their_licences_stand_in_the_notice() -> None:
    licences = [path.read_text(encoding="utf-8") for path in VENDOR.glob("*/LICENSE")]
    assert len(licences) == 2
    for licence in licences:
        assert "MIT License" in licence
        assert licence.strip() in NOTICE


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in VENDOR.rglob("*") if path.is_file()) < LIMIT

"""What a release loads is fixed: published weights come in the revision that is written down."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.weights.locate import HUB_NAMES, SCORER, SCORER_BACKBONE, HubReference, locate
from pipeline.weights.revisions import PINNED_REVISIONS
from pipeline.weights.scorers import IMAGE_ALIGNMENT
from tests.pipeline.weights.conftest import DINO, IMAGE
from tests.support.fake_hub import COMMIT, FakeHub

PINNED = dict(PINNED_REVISIONS)


@pytest.fixture(autouse=True)
def pins(newest_revisions: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the pinned revisions."""
    for repository, revision in PINNED.items():
        monkeypatch.setitem(PINNED_REVISIONS, repository, revision)


def test_all_that_shipped_phases_name_is_pinned() -> None:
    assert HUB_NAMES["dinov2_vitl14_reg"] == DINO
    for reference in (*PINNED, SCORER, SCORER_BACKBONE, IMAGE_ALIGNMENT):
        source = HubReference.parse(reference)
        assert source is not None and source.revision is not None
        assert re.fullmatch("[0-9a-f]{40}", source.revision)


def test_a_reference_may_name_another_revision() -> None:
    for text, revision in ((IMAGE, PINNED[IMAGE]), (f"{IMAGE}/ckpts/flow", PINNED[IMAGE]), (f"{IMAGE}@main", "main")):
        source = HubReference.parse(text)
        assert source is not None and source.revision == revision
    assert HubReference.parse("org/name") == HubReference("org/name", "", None)


def test_a_newer_commit_of_the_repository_is_not_taken(
    hub: FakeHub, cache: Path, download: Callable[..., Result], check: Callable[..., Result]
) -> None:
    # The hub's newest commit is another one, and it does not know ours.
    result = download(IMAGE)
    assert result.exit_code == 2
    assert f"{IMAGE} has no revision {PINNED[IMAGE]}" in result.stderr
    hub.commits |= {revision: revision for revision in PINNED.values()}
    assert download(IMAGE).exit_code == 0
    snapshots = cache / f"models--{IMAGE.replace('/', '--')}" / "snapshots"
    assert [path.name for path in snapshots.iterdir()] == [PINNED[IMAGE]]
    assert locate(IMAGE, "pipeline.json") == snapshots / PINNED[IMAGE]
    assert check(IMAGE).exit_code == 0
    assert download(f"{IMAGE}@main").exit_code == 0
    assert {path.name for path in snapshots.iterdir()} == {PINNED[IMAGE], COMMIT}
    assert locate(IMAGE, "pipeline.json") == snapshots / PINNED[IMAGE]


def test_damage_of_a_pinned_revision_is_repaired_by_the_bare_name(
    hub: FakeHub, cache: Path, download: Callable[..., Result], check: Callable[..., Result]
) -> None:
    hub.commits |= {revision: revision for revision in PINNED.values()}
    assert download(IMAGE).exit_code == 0
    folder = cache / f"models--{IMAGE.replace('/', '--')}" / "snapshots" / PINNED[IMAGE]
    (folder / "ckpts" / "ss_dec_tiny.safetensors").resolve().unlink()
    result = check(IMAGE)
    assert result.exit_code == 2
    assert f"run `sn17-miner weights download {IMAGE}`" in result.stdout + result.stderr

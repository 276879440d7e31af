import base64
import re
from pathlib import Path

import pytest
from PIL import Image
from plyfile import PlyData

from miner.localnet.validator import check_result
from miner.runtime.logging import ResultLine
from miner.subnet.protocol import ImageTask, TextTask
from pipeline import STAGES, spz
from pipeline.conditioning.preprocessing import has_alpha
from scripts.demo import DemoTask, demo_tasks, is_accepted, print_table, write_outputs
from tests.support.generated import make_splats

TASKS = [
    DemoTask("1", "push", Image.new("RGB", (8, 8), "red")),
    DemoTask("2", "pull", Image.new("RGB", (8, 8), "blue")),
]


@pytest.fixture(scope="module")
def tasks() -> list[DemoTask]:
    return demo_tasks()


def test_tasks_of_both_types_by_both_ways_and_one_with_alpha(tasks: list[DemoTask]) -> None:
    *images, text = tasks
    assert [task.transport for task in images] == ["push", "pull", "pull"]
    assert [isinstance(task.protocol_task, ImageTask) for task in images] == [True] * 3
    assert [task.reference is None for task in images] == [True, False, False]
    alphas = [has_alpha(task.prompt) for task in images if isinstance(task.prompt, Image.Image)]
    assert alphas == [False, True, True]
    assert (text.protocol_task, text.task_type) == (TextTask(id="4", prompt=str(text.prompt)), "text")


def test_a_valid_result_that_looks_like_something_else_is_not_accepted(
    tasks: list[DemoTask], capsys: pytest.CaptureFixture[str]
) -> None:
    task = tasks[1]
    assert task.reference is not None
    results = base64.b64encode(spz.to_bytes(make_splats(7000))).decode()
    unlike, unknown = check_result("2", "pull", results, task.reference), check_result("2", "pull", results)
    assert (unlike.verdict, is_accepted(unlike), is_accepted(unknown)) == ("valid", False, True)
    print_table([task], [unlike], [])
    (likeness,) = re.findall(r"valid, likeness (0\.\d\d)$", capsys.readouterr().out, re.MULTILINE)
    assert float(likeness) < 0.6


def test_files_of_a_valid_result_and_none_of_an_invalid_one(tmp_path: Path) -> None:
    data = spz.to_bytes(make_splats(7000))
    good = check_result("1", "push", base64.b64encode(data).decode())
    bad = check_result("2", "pull", base64.b64encode(spz.to_bytes(make_splats(100))).decode())
    assert (good.verdict, bad.splats) == ("valid", None)
    (tmp_path / "2.png").write_bytes(b"of an earlier run")
    write_outputs(TASKS, [good, bad], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.ply", "1.png", "1.spz"]
    assert (tmp_path / "1.spz").read_bytes() == data
    assert len(PlyData.read(tmp_path / "1.ply")["vertex"]) == 7000
    with Image.open(tmp_path / "1.png") as sheet:
        assert sheet.width > 5 * 256


def test_table_has_a_row_for_each_task(capsys: pytest.CaptureFixture[str]) -> None:
    good = check_result("1", "push", base64.b64encode(spz.to_bytes(make_splats(7000))).decode())
    print_table(TASKS, [good], [ResultLine("push-ab", dict.fromkeys(STAGES, 1.5), 7000, 9)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert rows[0][:2] == ["task", "way"]
    assert rows[1][:2] == ["1", "push"]
    assert rows[1][-3:] == ["7000", str(len(good.data)), "valid"]
    assert rows[2][-4:] == ["0", "0", "no", "answer"]

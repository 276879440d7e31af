from importlib.util import find_spec
from pathlib import Path

if find_spec("triton") is None:
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_triton_*.py")]

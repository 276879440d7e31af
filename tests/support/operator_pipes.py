"""The pipes with which operators cut numbers out of the log."""

import subprocess

SCORES = """grep "Score=" | awk -F'Score=' '{print $2}' | awk -F',' '{print $1}'"""
COUNTS = """grep "Final stats:" | awk -F'gaussians' '{print $1}' | awk '{print $NF}'"""
SECONDS = r"""grep -oE "TRELLIS generation took [0-9.]+ seconds" | awk '{print $4}'"""
ACCEPTANCE = """grep "Score=" | awk -F'Score=' '{n++; if ($2 + 0 > 0) a++} END {print a + 0 " of " n + 0}'"""


def cut(command: str, log: str) -> list[str]:
    """Return the words that a pipe prints of a log."""
    done = subprocess.run(["bash", "-c", command], input=log, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.stdout.split()

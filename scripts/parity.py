"""Compare the engine with golden data: every network, sampler, picture and file that a manifest lists.

    python scripts/parity.py DIR

DIR holds manifest.json and the files it names. One line per comparison: name, error (largest difference over the
golden data's largest magnitude) and bound. The last line is a JSON object {"worst", "n", "failed", "skipped"}.
Exit 1 if a comparison failed, 2 if DIR cannot be read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import PipelineError
from scripts.parity_checks import networks, samplers
from scripts.parity_checks.report import Arrays, Golden, Report
from scripts.parity_checks.units import picture, ply_file, units

Check = Callable[[str, Arrays, Golden, Report], set[str]]
# The arrays that tell what a file is about; the first line that fits counts.
CHECKS: tuple[tuple[set[str], Check], ...] = (
    ({"x", "t", "cond", "y"}, networks.structure_flow),
    ({"feats", "coords", "t", "cond", "y"}, networks.latent_flow),
    ({"z", "logits"}, networks.structure_decoder),
    ({"bits", "logits_every7"}, networks.decoder_of_sampler),
    ({"coords", "noise", "cond", "samples"}, samplers.latent_sampler),
    ({"noise", "cond", "samples"}, samplers.structure_sampler),
    ({"samples_cfg"}, samplers.other_samplers),
    ({"samples_plain"}, samplers.other_samplers),
    ({"feats", "coords"}, networks.gaussian_decoder),
)


def check_arrays(file: str, golden: Golden, report: Report) -> None:
    """All arrays of an npz file; those no check accounts for are listed as skipped."""
    arrays = golden.arrays(file)
    for wanted, check in CHECKS:
        if wanted <= arrays.keys():
            used = check(file, arrays, golden, report)
            break
    else:
        used = units(file, arrays, report)
    report.skipped += [f"{file}: {name}" for name in sorted(arrays.keys() - used)]


def check_file(file: str, entry: Mapping[str, Any], golden: Golden, report: Report) -> None:
    """One file of the manifest, by its name."""
    if "sha256" in entry:
        digest = hashlib.sha256((golden.directory / file).read_bytes()).hexdigest()
        report.exact(f"{file}: sha256", digest, entry["sha256"])
    if file.endswith(".npz"):
        check_arrays(file, golden, report)
    elif file.endswith(".ply"):
        ply_file(file, golden, report)
    elif file.endswith("_in.png"):
        picture(file, golden, report)
    elif not file.endswith("_out.png") and file not in {spec["weights"] for spec in golden.models.values()}:
        report.skipped.append(file)


@torch.no_grad()
def compare(directory: Path) -> Report:
    """Every file of the manifest, then what the manifest itself states."""
    golden, report = Golden(directory), Report()
    for file, entry in golden.files.items():
        try:
            check_file(file, entry, golden, report)
        except (PipelineError, OSError, EOFError, LookupError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
            report.record(f"{file}: {type(error).__name__}: {error}", float("inf"), 0.0)
    for key, value in golden.manifest.items():
        if key.startswith("cfg_schedule"):
            samplers.guidance_schedules(key, value, report)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    try:
        report = compare(directory)
    except (PipelineError, KeyError) as error:
        print(f"{directory}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report.summary()))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())

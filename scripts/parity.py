"""Compare the engine with golden data: every network, sampler, image and file that a manifest lists.

    python -m scripts.parity DIR

DIR holds manifest.json and the files that it names. Prints a line for each comparison: name, error (the largest
difference over the golden data's largest magnitude) and bound. The last line is a JSON object {"worst", "n", "failed",
"skipped"}. Exits with 1 if a comparison failed, and with 2 if DIR cannot be read.
"""

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
from scripts.parity_checks.units import check_image, check_ply, check_units

Check = Callable[[str, Arrays, Golden, Report], set[str]]
# The arrays that identify the kind of a file; the first entry whose arrays are all there applies.
CHECKS: tuple[tuple[set[str], Check], ...] = (
    ({"x", "t", "cond", "y"}, networks.check_structure_flow),
    ({"feats", "coords", "t", "cond", "y"}, networks.check_latent_flow),
    ({"z", "logits"}, networks.check_structure_decoder),
    ({"bits", "logits_every7"}, networks.check_decoder_of_sampler),
    ({"coords", "noise", "cond", "samples"}, samplers.check_latent_sampler),
    ({"noise", "cond", "samples"}, samplers.check_structure_sampler),
    ({"samples_cfg"}, samplers.check_other_samplers),
    ({"samples_plain"}, samplers.check_other_samplers),
    ({"feats", "coords"}, networks.check_gaussian_decoder),
)


def check_arrays(file: str, golden: Golden, report: Report) -> None:
    """Check all arrays of an npz file; list those that no check accounts for as skipped."""
    arrays = golden.arrays(file)
    for required, check in CHECKS:
        if required <= arrays.keys():
            used = check(file, arrays, golden, report)
            break
    else:
        used = check_units(file, arrays, report)
    report.skipped += [f"{file}: {name}" for name in sorted(arrays.keys() - used)]


def check_file(file: str, entry: Mapping[str, Any], golden: Golden, report: Report) -> None:
    """Check one file of the manifest by the kind that its name tells."""
    if "sha256" in entry:
        digest = hashlib.sha256((golden.directory / file).read_bytes()).hexdigest()
        report.compare_exactly(f"{file}: sha256", digest, entry["sha256"])
    if file.endswith(".npz"):
        check_arrays(file, golden, report)
    elif file.endswith(".ply"):
        check_ply(file, golden, report)
    elif file.endswith("_in.png"):
        check_image(file, golden, report)
    elif not file.endswith("_out.png") and file not in {spec["weights"] for spec in golden.models.values()}:
        report.skipped.append(file)


@torch.no_grad()
def check_directory(directory: Path) -> Report:
    """Check every file of the manifest, then the schedules in the manifest itself.

    Raises CheckpointError or KeyError if the manifest cannot be used.
    """
    golden, report = Golden(directory), Report()
    for file, entry in golden.files.items():
        try:
            check_file(file, entry, golden, report)
        except (PipelineError, OSError, EOFError, LookupError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
            report.record(f"{file}: {type(error).__name__}: {error}", float("inf"), 0.0)
    for key, value in golden.manifest.items():
        if key.startswith("cfg_schedule"):
            samplers.check_guidance_schedules(key, value, report)
    return report


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    try:
        report = check_directory(directory)
    except (PipelineError, KeyError) as error:
        print(f"{directory}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report.summary()))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())

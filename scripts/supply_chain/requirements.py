"""Write the requirement files with hashes, for `pip install --require-hashes`, from setup.py and constraints.txt.

    python -m scripts.supply_chain.requirements

Needs uv (`pip install uv`), which resolves for all platforms and versions of Python at once and knows the hashes of all
wheels. Of the files in scripts/requirements, three are complete and include others: cpu.txt, with PyTorch's build for
CPUs; gpu.txt; and cpu-default-index.txt, for machines without a GPU that have the default index alone, whose torch
for Linux is the build for CUDA. extras.txt adds scoring, text-to-image and Ray, dev.txt what the tests need. Exits with
1 if uv fails, or if a version is missing in constraints.txt.
"""

import argparse
import runpy
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from shutil import which
from unittest.mock import patch

from scripts.supply_chain.pins import CONSTRAINTS, REQUIREMENTS, Pin, parse_pins, read_constraints, write_file

EXTRAS = ("score", "text-to-image", "ray")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# (sys_platform, platform_machine)
PLATFORMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64"))
_CUDA_PREFIXES = ("cuda-", "nvidia-", "triton")
# PyTorch's own index has builds for CPUs, a fifth of the size, under another local version, so that uv does not list
# them: the sha256 of torch-VERSION-cpXY-cpXY-manylinux_2_28_MACHINE.whl. The one for CPython 3.11 on x86-64 is what
# this project is tested with; the others are as several public lock files have them.
TORCH_CPU_VERSION = "2.13.0+cpu"
TORCH_CPU_BUILDS = {
    ("cp311", "x86_64"): "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    ("cp312", "x86_64"): "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
    ("cp313", "x86_64"): "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
    ("cp314", "x86_64"): "d20fa53ee744502fa4c69818a720b05ca0d37abd055d4f6e66cae155114bc691",
    ("cp311", "aarch64"): "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7",
    ("cp312", "aarch64"): "6f307c2c32d764ffc6ff6893b801fad6d4752f3e67966cb8abf1843427c02604",
    ("cp313", "aarch64"): "0b8f7d0423027ae8b90c7977c627f3379f325363a08224dffad9b4b2d684a83d",
    ("cp314", "aarch64"): "ca021f9eb2f8345c83fa03e3a04587308afb8df71bd472670b3ece00df58621c",
}


def environments() -> list[dict[str, str]]:
    """Return the environments that the files are for, as packaging's markers describe them."""
    systems = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
    return [
        {
            "sys_platform": system, "platform_system": systems[system], "platform_machine": machine,
            "python_version": python, "python_full_version": f"{python}.0", "platform_python_implementation": "CPython",
            "implementation_name": "cpython", "os_name": "nt" if system == "win32" else "posix", "extra": "",
        }
        for (system, machine), python in product(PLATFORMS, PYTHONS)
    ]  # fmt: skip


def requirements(root: Path, extras: Sequence[str]) -> list[str]:
    """Return what setup.py requires with some of its extras."""
    with patch("setuptools.setup") as setup:
        runpy.run_path(str(root / "setup.py"))
    stated = setup.call_args.kwargs
    return [*stated["install_requires"], *chain.from_iterable(stated["extras_require"][extra] for extra in extras)]


def resolve(uv: str, root: Path, extras: Sequence[str]) -> dict[str, Pin]:
    """Return the packages that this one needs with some of its extras, by name. Raises CalledProcessError."""
    command = [uv, "pip", "compile", "--quiet", "-", "--constraint", str(root / CONSTRAINTS), "--universal"]
    command += ["--python-version", PYTHONS[0], "--generate-hashes", "--only-binary", ":all:"]
    command += ["--no-annotate", "--no-header", "--no-emit-index-url"]
    wanted = "\n".join(requirements(root, extras))
    done = subprocess.run(command, input=wanted, check=True, stdout=subprocess.PIPE, text=True)
    pins = parse_pins(done.stdout)
    return {pin.name: pin for pin in pins if any(pin.applies(environment) for environment in environments())}


def check_versions(pins: Mapping[str, Pin], constraints: Mapping[str, str]) -> None:
    """Raise ValueError unless constraints.txt has all versions, and the CPU builds of torch are of its version."""
    missing = [f"{pin.name}=={pin.version}" for pin in pins.values() if constraints.get(pin.name) != pin.version]
    if missing:
        raise ValueError(f"add to {CONSTRAINTS}: {' '.join(missing)}")
    if f"{constraints['torch']}+cpu" != TORCH_CPU_VERSION:
        raise ValueError(f"TORCH_CPU_BUILDS must be those of torch {constraints['torch']}")


def write_files(uv: str, root: Path) -> None:
    """Resolve and write all files. Raises CalledProcessError or ValueError."""
    cpu, gpu = resolve(uv, root, ["cpu"]), resolve(uv, root, ["gpu"])
    extras, dev = resolve(uv, root, ["cpu", *EXTRAS]), resolve(uv, root, ["cpu", "dev"])
    check_versions(gpu | dev, read_constraints(root))
    torch = cpu["torch"]
    cuda = {name for name in gpu if name.startswith(_CUDA_PREFIXES)}
    common = (cpu.keys() & gpu.keys()) - cuda - {"torch"}
    torch_for_cpus = (
        Pin("torch", TORCH_CPU_VERSION, tuple(TORCH_CPU_BUILDS.values()), "sys_platform == 'linux'"),
        replace(torch, marker="sys_platform != 'linux'"),
    )
    only_cpu = [cpu[name] for name in cpu.keys() - gpu.keys()]
    only_gpu = [gpu[name] for name in gpu.keys() - cpu.keys()]
    files: dict[str, tuple[str, Sequence[str], Iterable[Pin]]] = {
        "common.txt": ("What the miner needs beside torch and onnxruntime.", (), (cpu[name] for name in common)),
        "torch-cpu.txt": ("PyTorch's build for CPUs.", (), torch_for_cpus),
        "torch-cuda.txt": (
            "The default index's torch, which on Linux is the build for CUDA.", (),
            (torch, *(gpu[name] for name in cuda)),
        ),
        "cpu.txt": ("All that the miner needs without a GPU.", ("common.txt", "torch-cpu.txt"), only_cpu),
        "cpu-default-index.txt": (
            "The same as cpu.txt, from the default index alone.", ("common.txt", "torch-cuda.txt"), only_cpu,
        ),
        "gpu.txt": ("All that the miner needs on a GPU.", ("common.txt", "torch-cuda.txt"), only_gpu),
        "extras.txt": (
            f"Beside cpu.txt or gpu.txt: the extras {', '.join(EXTRAS)}.", (),
            (extras[name] for name in extras.keys() - cpu.keys()),
        ),
        "dev.txt": (
            "Beside cpu.txt or gpu.txt: what tests need.", ("extras.txt",),
            (dev[name] for name in dev.keys() - extras.keys()),
        ),
    }  # fmt: skip
    for name, (purpose, includes, pins) in files.items():
        write_file(root / REQUIREMENTS / name, purpose, includes, pins)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    uv = which("uv")
    if uv is None:
        print("uv is not installed: pip install uv", file=sys.stderr)
        return 1
    try:
        write_files(uv, Path.cwd())
    except (subprocess.CalledProcessError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

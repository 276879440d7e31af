"""Licences: what a package says of its own, as an SPDX expression, and which ones the product may contain."""

from collections.abc import Mapping, Sequence
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

# What packages call them in their metadata, and the classifiers that stand for one licence alone.
_NAMES = {
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "mit license": "MIT",
    "3-clause bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "nvidia proprietary software": "LicenseRef-NVIDIA-Proprietary",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
    "License :: OSI Approved :: GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
}
# Where the metadata has only a word such as BSD, or the whole text: the licence in the package's own LICENSE file.
_READ_BY_HAND = {
    "bittensor": "MIT",
    "colorama": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause",
    "msgpack-numpy-opentensor": "BSD-3-Clause",
    "netaddr": "BSD-3-Clause",
    "numba": "BSD-2-Clause",
    # A part of it is in the public domain.
    "pycryptodome": "BSD-2-Clause",
    "scikit-image": "BSD-3-Clause",
    # Its wheels contain the run-time library of gfortran.
    "scipy": "BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1",
    "sympy": "BSD-3-Clause",
    # A package without files, of the same publisher as what it requires.
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
}
PERMISSIVE = frozenset(
    {
        "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
        "CNRI-Python", "GPL-3.0-or-later WITH GCC-exception-3.1", "ISC", "MIT", "MIT-CMU", "PSF-2.0", "Zlib",
    }
)  # fmt: skip
# Copyleft of single files, which reaches nothing that only imports them; their sources are published with the wheels.
WEAK_COPYLEFT = {"MPL-2.0": frozenset({"certifi", "tqdm"})}
# NVIDIA lets anybody use CUDA's libraries, commercially too. This project does not contain them: pip fetches them where
# torch for GPUs is installed.
PROPRIETARY = {"LicenseRef-NVIDIA-Proprietary": ("nvidia-", "cuda-")}


def licence_of(metadata: Mapping[str, Any]) -> str:
    """Return the SPDX expression for the metadata of a package, as pip reports them; "" if it is not known."""
    name = str(metadata["name"]).lower().replace("_", "-").replace(".", "-")
    if name in _READ_BY_HAND:
        return _READ_BY_HAND[name]
    classifiers: Sequence[str] = metadata.get("classifier") or ()
    stated = [text for text in (metadata.get("license_expression"), metadata.get("license")) if text]
    named = {_NAMES[text] for text in classifiers if text in _NAMES}
    for text in stated:
        try:
            return str(canonicalize_license_expression(_NAMES.get(text.strip().lower(), text)))
        except InvalidLicenseExpression:
            continue
    return named.pop() if len(named) == 1 else ""


def is_allowed(expression: str, name: str = "") -> bool:
    """Return whether a part of the product may be under these licences: of alternatives, one of them.

    Raises ValueError for an expression with parentheses.
    """
    if "(" in expression:
        raise ValueError(f"parentheses are not read: {expression}")
    return any(
        all(_is_allowed(licence.strip(), name) for licence in alternative.split(" AND "))
        for alternative in expression.split(" OR ")
    )


def _is_allowed(licence: str, name: str) -> bool:
    if licence in WEAK_COPYLEFT:
        return name in WEAK_COPYLEFT[licence]
    if licence in PROPRIETARY:
        return name.startswith(PROPRIETARY[licence])
    return licence in PERMISSIVE

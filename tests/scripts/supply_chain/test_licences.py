"""Which licences a part of the product may have; what is unknown is not allowed."""

import pytest

from scripts.supply_chain.licences import is_allowed, licence_of

MIT, BSD = "License :: OSI Approved :: MIT License", "License :: OSI Approved :: BSD License"


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("MIT", ""),
        ("Apache-2.0 OR BSD-2-Clause", ""),
        ("GPL-3.0-only OR MIT", ""),
        ("Apache-2.0 WITH LLVM-exception AND BSD-3-Clause", ""),
        ("BSD-3-Clause AND GPL-3.0-or-later WITH GCC-exception-3.1", ""),
        ("MPL-2.0 AND MIT", "tqdm"),
        ("LicenseRef-NVIDIA-Proprietary", "nvidia-cublas"),
    ],
)
def test_licences_that_are_allowed(expression: str, name: str) -> None:
    assert is_allowed(expression, name)


@pytest.mark.parametrize(
    "expression",
    [
        "", "GPL-3.0-or-later", "LGPL-2.1-only", "AGPL-3.0-only", "MIT AND GPL-2.0-only", "CC-BY-NC-4.0", "MPL-2.0",
        "LicenseRef-Unstated", "LicenseRef-NVIDIA-Proprietary", "OpenRAIL-M",
    ],
)  # fmt: skip
def test_copyleft_non_commercial_and_unknown_licences_are_refused(expression: str) -> None:
    assert not is_allowed(expression, "some-package")


def test_parentheses_are_no_guess() -> None:
    with pytest.raises(ValueError, match="parentheses"):
        is_allowed("(MIT OR GPL-3.0-only) AND GPL-3.0-only")


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"license_expression": "Apache-2.0 AND MIT"}, "Apache-2.0 AND MIT"),
        ({"license": "Apache 2.0"}, "Apache-2.0"),
        ({"license": "bsd-3-clause"}, "BSD-3-Clause"),
        ({"classifier": [MIT]}, "MIT"),
        ({"license": "The whole text of a licence ...", "classifier": [MIT]}, "MIT"),
        # A word that several licences go by, two of them at once, and nothing at all.
        ({"license": "BSD", "classifier": [BSD]}, ""),
        ({"classifier": [MIT, "License :: OSI Approved :: Apache Software License"]}, ""),
        ({}, ""),
        ({"name": "Jinja2", "classifier": [BSD]}, "BSD-3-Clause"),
    ],
)
def test_what_packages_say_of_themselves(metadata: dict[str, object], licence: str) -> None:
    assert licence_of({"name": "some_package"} | metadata) == licence

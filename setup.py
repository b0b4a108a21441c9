"""Builds the compiled engine and the atlas's loops; everything else about the package is in pyproject.toml.

Both are optional: where there is no compiler, dnsd is installed without them, Python answers every query and numpy
builds the atlas. DNSD_ENGINE=require makes a failed build an error, DNSD_ENGINE=python builds none. SANITIZE=1 builds
them with the address and undefined behaviour sanitizers (`make asan`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
WANTED = os.environ.get("DNSD_ENGINE", "auto")
ATLAS = ("lines", "rows", "runs", "walk")
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g", "-O1"]


def extensions() -> list[Extension]:
    """The engine, compiled for the numbers that the Python beside it has; the atlas's loops."""
    if WANTED == "python":
        return []
    from Cython.Build import cythonize

    sys.path.insert(0, str(ROOT))
    from dnsd.engine import constants

    made, text = ROOT / "dnsd/engine/constants.pxi", constants.pxi()
    if not made.exists() or made.read_text(encoding="utf-8") != text:
        made.write_text(text, encoding="utf-8")
    parts = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "dnsd/engine").glob("*.pxi"))
    flags = [*SANITIZERS] if os.environ.get("SANITIZE") else ["-O3"]
    flags += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]  # numbers as numpy has them, but at once
    return list(cythonize([
        Extension(
            name, [name.replace(".", "/") + ".pyx"], depends=depends, optional=WANTED != "require",
            extra_compile_args=[*flags, "-Wno-unused-function", "-Wno-unused-const-variable", "-Wno-sign-compare"],
            extra_link_args=SANITIZERS[:1] if os.environ.get("SANITIZE") else [])
        for name, depends in [("dnsd.engine.door", parts), *((f"dnsd.atlas.{one}", []) for one in ATLAS)]
    ], language_level=3, quiet=True))


setup(ext_modules=extensions())

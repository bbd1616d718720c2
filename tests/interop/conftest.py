# SPDX-License-Identifier: Apache-2.0
"""The program from outside, for tests against the real readers. A test skips where a package is missing:

    transformers = pytest.importorskip("transformers")
"""
import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Program:
    """The dartquant program: $DARTQUANT_PROGRAM, or that of the release build."""

    def __init__(self):
        self.path = pathlib.Path(os.environ.get("DARTQUANT_PROGRAM", ROOT / "build/release/bin/dartquant"))

    def run(self, *arguments):
        """Runs a command line and returns what it printed; fails the test unless the exit code is 0."""
        done = self.attempt(*arguments)
        assert done.returncode == 0, f"dartquant {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}"
        return done.stdout

    def attempt(self, *arguments):
        return subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True, timeout=300)

    def report(self, folder, *arguments):
        """Runs a command line with --json and returns the report."""
        file = pathlib.Path(folder) / "report.json"
        self.run(*arguments, "--json", file)
        return json.loads(file.read_text())


@pytest.fixture(scope="session")
def program():
    program = Program()
    if not program.path.exists():
        pytest.fail(f"{program.path} is missing: build it with cmake --build --preset release --target dartquant_program")
    return program


def pytest_configure():
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

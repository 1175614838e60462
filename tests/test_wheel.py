"""The wheel, built as a release is and installed alone: nothing is missing and nothing is extra."""

import fcntl
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
# Directories of the repository by the name of their package.
PACKAGES = {
    Path(directory).name: ROOT / directory
    for directory in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]["packages"]
}
# Imports every module, and prints the file of each.
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    print(package.__file__)
    for found in pkgutil.walk_packages(package.__path__, f"{name}."):
        print(importlib.import_module(found.name).__file__)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The built wheel, and an environment with it and this one's dependencies.

    Attributes:
        wheel: Its file.
        environment: Directory of the environment.
    """

    wheel: Path
    environment: Path

    def run(self, program: str, *arguments: str) -> str:
        """Return the output of a program of the environment, outside the repository."""
        # The repository must not be found, neither by a path nor as the working directory.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        outcome = subprocess.run(  # noqa: S603 - a program that was installed just now
            [self.environment / "bin" / program, *arguments],
            cwd=self.environment,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Installation:
    """Build and install the wheel once for all processes of the run."""
    directory = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        directory = directory.parent
    directory /= "wheel"
    directory.mkdir(exist_ok=True)
    installed = directory / "installed"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists():
            wheel = _build(directory)
            _install(wheel, directory / "environment")
            installed.touch()
    (wheel,) = directory.glob("*.whl")
    return Installation(wheel=wheel, environment=directory / "environment")


def test_the_wheel_holds_every_file_of_its_packages_and_no_other(
    installation: Installation,
) -> None:
    files = [PurePosixPath(name) for name in zipfile.ZipFile(installation.wheel).namelist()]
    packaged = {path for path in files if not path.parts[0].endswith(".dist-info")}
    kept = {
        PurePosixPath(name, path.relative_to(directory).as_posix())
        for name, directory in PACKAGES.items()
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packaged == kept
    assert {PurePosixPath(name, "py.typed") for name in PACKAGES} <= packaged


def test_every_module_of_the_wheel_can_be_imported(installation: Installation) -> None:
    origins = installation.run("python", "-c", IMPORT_ALL, *PACKAGES).splitlines()
    assert len(origins) > len(PACKAGES)
    elsewhere = [
        origin for origin in origins if not Path(origin).is_relative_to(installation.environment)
    ]
    assert not elsewhere


@pytest.mark.parametrize("program", ["engine-server", "service-server", "pipelines"])
def test_every_program_of_the_wheel_explains_itself(
    installation: Installation, program: str
) -> None:
    assert program in installation.run(program, "--help")


def _build(directory: Path) -> Path:
    """Build the wheel from the source distribution, as a packager does."""
    _python("-m", "hatchling", "build", "-t", "sdist", "-d", str(directory), cwd=ROOT)
    (archive,) = directory.glob("*.tar.gz")
    _python("-m", "tarfile", "-e", str(archive), str(directory))
    unpacked = directory / archive.name.removesuffix(".tar.gz")
    _python("-m", "hatchling", "build", "-t", "wheel", "-d", str(directory), cwd=unpacked)
    (wheel,) = directory.glob("*.whl")
    return wheel


def _install(wheel: Path, environment: Path) -> None:
    """Install the wheel into a new environment, which then gets the dependencies of this one.

    A path file below an environment's own directory is read, but none below a directory that it
    adds. So this environment's editable installation of the repository is not seen.
    """
    _python("-m", "venv", "--without-pip", str(environment))
    python = str(environment / "bin" / "python")
    _python("-m", "pip", "--python", python, "install", "--no-deps", "--no-index", str(wheel))
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")


def _python(*arguments: str, cwd: Path | None = None) -> None:
    subprocess.run(  # noqa: S603 - this Python
        [sys.executable, *arguments], cwd=cwd, check=True, capture_output=True
    )

"""The shape of the repository: what is packaged, what may import what, how long files are, what the lock holds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import yaml
from setuptools import find_packages

import ocl

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = [path for package in ("ocl", "rl_probes") for path in (ROOT / package).rglob("*.py")]


def run(*arguments: str) -> str:
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_datasets_is_no_python_package() -> None:
    """An importable `datasets` would shadow the library of that name."""
    assert not list((ROOT / "datasets").rglob("*.py"))
    assert not list(ROOT.glob("datasets*.py"))


def test_tests_are_no_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert len(lengths) > 50
    assert not {path: length for path, length in lengths.items() if length > 400}


def test_only_the_two_packages_are_distributed() -> None:
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    found = set(find_packages(str(ROOT), include=include))
    assert {name.split(".")[0] for name in found} == {"ocl", "rl_probes"}
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in SOURCES}
    assert found == folders, "a folder of modules without __init__.py would be missing from the wheel"


def test_the_wheel_holds_the_two_packages_and_their_data(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("ocl", "rl_probes", "configs", "datasets", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = "import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=copy, check=True, capture_output=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"ocl", "rl_probes", f"ocl_research-{ocl.__version__}.dist-info"}
    files = {f.relative_to(copy).as_posix() for package in ("ocl", "rl_probes") for f in (copy / package).rglob("*")}
    packaged = {name for name in names if "dist-info" not in name}
    assert packaged == {name for name in files if (copy / name).is_file()}


def test_names_and_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["project"]["name"] == "ocl-research"
    assert PROJECT["project"]["version"] == ocl.__version__ == citation["version"]
    assert PROJECT["project"]["license"] == citation["license"] == "Apache-2.0"
    assert f"\n## {ocl.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_the_lock_holds_names_versions_and_hashes_only() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pins = re.sub(r"\\\n\s*", "", text).splitlines()  # one requirement per line
    lines = [line for line in pins if line and not line.lstrip().startswith("#")]
    assert len(lines) > 100
    pin = re.compile(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?==[\w.!+-]+( ; [^#]+?)?( ?--hash=sha256:[0-9a-f]{64})+\s*")
    assert not [line[:100] for line in lines if not pin.fullmatch(line)]
    assert not re.search(r"://|@ |--index|--find-links", text)


def test_every_dependency_is_locked() -> None:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name)[0]).lower()

    locked = {plain(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if re.match(r"\w", line)}
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *(name for name in project["optional-dependencies"]["dev"])]
    assert {plain(name) for name in wanted} - {"ocl-research"} <= locked


def test_importing_ocl_is_light() -> None:
    heavy = "{'torch', 'numpy', 'pytorch_lightning', 'stable_baselines3', 'gymnasium', 'timm'}"
    run(sys.executable, "-c", f"import ocl, sys; assert not {heavy} & set(sys.modules), sorted(sys.modules)")


def test_what_stays_where_it_belongs() -> None:
    """Lightning around training only; environments and agents in rl_probes only."""
    lightning = {"training.py", "callbacks.py", "cli.py", "fit.py", "module.py"}
    for path in SOURCES:
        imported = set(re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE))
        if "pytorch_lightning" in imported:
            assert path.name in lightning, path
        if path.is_relative_to(ROOT / "ocl"):
            assert not imported & {"stable_baselines3", "gymnasium", "envpool", "rl_probes"}, path
        assert "lightning" not in imported, f"{path}: its classes are not those of pytorch_lightning"


def test_imports_point_one_way() -> None:
    assert " 0 broken" in run(str(Path(sys.executable).parent / "lint-imports"), "--no-cache")

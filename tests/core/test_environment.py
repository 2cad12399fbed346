"""One environment, told three times: pyproject.toml, requirements.lock and environment.yml must agree."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

TOP = Path(__file__).resolve().parents[2]
CONDA_TO_PIP = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[^\s;]+)(?: ; (?P<marker>.+))?$")


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


@pytest.fixture(scope="module")
def declared() -> dict[str, Requirement]:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    return requirements(project["dependencies"] + [line for extra in extras for line in extra])


@pytest.fixture(scope="module")
def lock_lines() -> list[str]:
    return (TOP / "requirements.lock").read_text().splitlines()


@pytest.fixture(scope="module")
def conda() -> dict[str, Requirement]:
    entries = yaml.safe_load((TOP / "environment.yml").read_text())["dependencies"]
    by_pip = [line for entry in entries if isinstance(entry, dict) for line in entry["pip"]]
    found = requirements([entry for entry in entries if isinstance(entry, str)])
    assert not found.keys() & requirements(by_pip).keys(), "listed for conda and for pip"
    found = {CONDA_TO_PIP.get(name, name): requirement for name, requirement in found.items()}
    return found | requirements(by_pip)


def test_every_dependency_has_both_bounds(declared: dict[str, Requirement]) -> None:
    for requirement in declared.values():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">=", "<"}, f"{requirement} wants a lower and an upper bound"


def test_lock_pins_every_dependency_within_its_bounds(declared: dict[str, Requirement], lock_lines: list[str]) -> None:
    pins: dict[str, list[Version]] = {}
    for line in lock_lines:
        if match := PIN.match(line):
            pins.setdefault(match["name"], []).append(Version(match["version"]))
    for name, requirement in declared.items():
        assert name in pins, f"{name} is not in requirements.lock"
        for version in pins[name]:
            assert version in requirement.specifier, f"{name} {version} is outside {requirement.specifier}"


def test_lock_holds_pins_and_nothing_else(lock_lines: list[str]) -> None:
    for line in lock_lines:
        assert PIN.match(line) or line.lstrip().startswith("#"), f"not an exact pin: {line}"
        assert not re.search("://|@", line), f"an address in the lock: {line}"


def test_lock_has_no_gpl_decoder(lock_lines: list[str]) -> None:
    names = {match["name"] for line in lock_lines if (match := PIN.match(line))}
    assert "pylibjpeg-openjpeg" in names
    assert "pylibjpeg-libjpeg" not in names


def test_conda_lists_the_same_with_the_same_bounds(
    declared: dict[str, Requirement], conda: dict[str, Requirement]
) -> None:
    assert conda.keys() - {"python", "pip"} == declared.keys()
    for name, requirement in declared.items():
        assert conda[name].specifier == requirement.specifier, name


def test_conda_and_pip_ask_for_the_same_python(conda: dict[str, Requirement]) -> None:
    wanted = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["requires-python"]
    assert str(conda["python"].specifier) == wanted


def test_every_third_party_import_is_declared(declared: dict[str, Requirement]) -> None:
    providers = packages_distributions()
    for path in (TOP / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in {full.split(".")[0] for full in names} - set(sys.stdlib_module_names) - {"l3muscle"}:
                owners = {canonicalize_name(owner) for owner in providers.get(name, [name])}
                assert owners & declared.keys(), f"{path.name} imports {name}, which pyproject.toml does not list"


def project_files() -> list[Path]:
    """What git tracks, or would track."""
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=TOP, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listing.split("\0") if name and (path := TOP / name).is_file()]


def test_no_file_names_a_machine_or_a_registry() -> None:
    # In pieces, so that this file does not hold what it looks for.
    folders = "|".join(("wo" + "rk", "fa" + "rm", "ro" + "ot", "ho" + "me", "Us" + "ers"))
    hosts = "|".join(
        ("files.python" + "hosted", "pypi" + r"\.org/simple", "registry." + "npmjs", "anaconda" + r"\.org/")
    )
    forbidden = re.compile(rf"(?:^|[^\w.~-])/(?:{folders})/|{hosts}|index-" + r"url *[=:]|/sim" + r"ple/?\s*$", re.M)
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found = forbidden.search(text)
        assert not found, f"{path.relative_to(TOP)} holds {found.group(0).strip()!r}"

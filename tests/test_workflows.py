"""The workflows are right as far as that can be said here: they parse, are pinned, and run what there is."""

import re
import shlex
from pathlib import Path

import pytest
from processes import ROOT

import convinit_ext

yaml = pytest.importorskip("yaml")

WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps_of(workflow: Path) -> list[dict]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_a_commit_and_say_its_version(workflow: Path):
    lines = [line for line in workflow.read_text().splitlines() if "uses:" in line]
    pinned = [re.search(r"uses: ([\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+)$", line) for line in lines]
    assert all(pinned), lines
    versions = {match[1].partition("@")[0]: match[1] for match in pinned if match}
    assert {match[1] for match in pinned if match} == set(versions.values())  # one version of each


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_commands_are_targets_and_files_that_are_there(workflow: Path):
    commands = [step["run"] for step in steps_of(workflow) if "run" in step]
    targets = [target for command in commands for target in re.findall(r"\bmake (\S+)", command)]
    assert set(targets) <= TARGETS
    words = [word for command in commands for word in shlex.split(command.replace("&&", " "))]
    named = [word for word in words if re.fullmatch(r"(tests|scripts|\.ci)/\S+|\w+\.py", word)]
    assert targets or named
    assert [word for word in named if not (ROOT / word).exists()] == []


def test_the_one_command_of_ci_is_among_them():
    runs = [step.get("run") for step in steps_of(ROOT / ".github/workflows/ci.yml")]
    assert {"bash .ci/run", "make test"} <= set(runs)


def test_the_version_is_one():
    """In the package and the citation; and no workflow builds against an older torch."""
    project = (ROOT / "pyproject.toml").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == convinit_ext.__version__
    oldest = re.search(r'"torch>=([\d.]+)"', project)[1]
    assert f"torch=={oldest}.0" in project
    assert f'torch: "{oldest}.0"' in (ROOT / ".github/workflows/ci.yml").read_text()


def test_wheels_are_built_for_every_python_with_cuda_and_without():
    jobs = yaml.safe_load((ROOT / ".github/workflows/wheels.yml").read_text())["jobs"]
    built = re.search(r'^build = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1].split()
    for job in ("wheels", "cuda"):
        assert [f"{python}-*" for python in jobs[job]["strategy"]["matrix"]["python"]] == built


def test_every_wheel_is_tried_with_threads():
    """Nothing else runs them on a Python without its lock."""
    command = re.search(r'^test-command = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    named = [word for word in command.split() if word.startswith("tests/")]
    assert "tests/test_threads.py" in named and all((ROOT / word).exists() for word in named)


@pytest.mark.parametrize(
    "form", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")), ids=lambda path: path.name
)
def test_issue_forms_ask_something(form: Path):
    described = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(described)
    assert all(field["type"] == "textarea" and field["attributes"]["label"] for field in described["body"])

"""What people try first on a command line: --help, --version, a slip of the pen, Ctrl-C."""

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_models import SMALL

import convinit_ext
from convinit_ext.__main__ import main
from convinit_ext.cli import _COMMANDS, _run

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
MODELS = "command_models"


@pytest.mark.parametrize("command", ["", *_COMMANDS])
def test_help_describes_the_command_and_its_statuses_and_has_an_example(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        main([*command.split(), "--help"])
    assert exit_.value.code == 0
    said = capsys.readouterr().out
    parts = said.split("\n\n")
    assert len(parts[1]) > 60 and "options:" not in parts[1]  # between the usage and the options
    assert "Exit status: 0 " in said and "130 interrupted" in said
    assert re.search(rf"^examples?:\n  python -m convinit_ext {command}", said, re.MULTILINE)
    assert max(map(len, said.splitlines())) <= 80


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"convinit_ext {convinit_ext.__version__}\n"


@pytest.mark.parametrize(("arguments", "name"), [([], ""), (["walk"], ""), (["verify"], " verify")])
def test_wrong_usage_says_where_help_is(capsys, arguments, name):
    with pytest.raises(SystemExit):
        main(arguments)
    assert capsys.readouterr().err.endswith(f" (see python -m convinit_ext{name} --help)\n")


@pytest.mark.parametrize(
    "arguments",
    [
        *(f"{command} --model no_such_module:build" for command in ("run", "inspect", "fingerprint")),
        f"run --model {MODELS}:no_such_name",
        "run --recipe no_such_module:recipe",
        "run --device toaster",
        f"inspect --model {SMALL} --inputs {MODELS}:no_such_name",
        "fingerprint",
        "fingerprint somewhere --seed 3",
        "fingerprint no_such_folder",
        f"verify no_such_folder --model {SMALL}",
        "stream --streams 2",
        f"run --model {SMALL} --recipe no_such_file.toml",
        f"inspect --model {SMALL} --expected no_such_file.json",
        f"run --model {SMALL} --only no_such_name",
        f"run --model {SMALL} --skip no_such_name --dry-run",
    ],
)
def test_so_do_options_that_are_found_to_be_of_no_use(capsys, arguments):
    assert main(arguments.split()) == (2 if arguments.startswith(("fingerprint", "verify")) else 1)
    *_, line = capsys.readouterr().err.splitlines()
    command = arguments.split()[0]
    assert line.startswith(f"convinit_ext {command}: error: ")
    assert line.endswith(f" (see python -m convinit_ext {command} --help)")


def test_other_failures_speak_of_no_help(capsys):
    assert main(["run", "--model", SMALL, "--save", "/"]) == 1
    assert "--help" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "inspect", "verify", "fingerprint"])
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("os:path", "model 'os:path' is a module; name what in it makes the model, as os:path.build"),
        (f"{MODELS}:A_MODEL", "is a model already; name a class or a function that returns one"),
        (f"{MODELS}:SMALL", "is a str, and no class or function that returns a model"),
    ],
    ids=["module", "model", "str"],
)
def test_what_makes_no_model_is_named(capsys, tmp_path, command, spec, said):
    arguments = []
    if command == "verify":
        assert main(["run", "--model", SMALL, "--save", str(tmp_path / "a.safetensors")]) == 0
        arguments = [str(tmp_path / "a.safetensors")]
    assert main([command, *arguments, "--model", spec]) == (1 if command in ("run", "inspect") else 2)
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"convinit_ext {command}: error: model '{spec}'") and said in line


PRESSED = "import signal\nsignal.raise_signal(signal.SIGINT)\n"


def interrupted(
    folder: Path, command: str, handler: int = signal.SIG_DFL, module: Sequence[str] = ("-m", "convinit_ext")
) -> tuple[int, str]:
    """Return the status of a command that is given slow:build, and what it says.

    What runs in the background of a shell ignores Ctrl-C, and so would its children: the handler is theirs.
    """
    root = str(Path(convinit_ext.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, *module, command, "--model", "slow:build"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), root])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stderr


@pytest.mark.parametrize("command", ["run", "fingerprint"])
def test_ctrl_c_is_one_line_and_status_130(tmp_path, command):
    (tmp_path / "slow.py").write_text(f"def build():\n    {PRESSED.replace(chr(10), '; ')}")
    assert interrupted(tmp_path, command) == (130, f"convinit_ext {command}: interrupted\n")


@pytest.mark.parametrize("module", [("-m", "convinit_ext"), ("-mconvinit_ext",)], ids=len)
def test_so_it_is_while_torch_is_imported(tmp_path, module):
    (tmp_path / "torch.py").write_text(PRESSED)
    assert interrupted(tmp_path, "run", module=module) == (130, "convinit_ext: interrupted\n")


def test_what_runs_in_the_background_goes_on(tmp_path):
    (tmp_path / "slow.py").write_text(f"{PRESSED}from torch.nn import Flatten as build\n")
    assert interrupted(tmp_path, "fingerprint", signal.SIG_IGN)[0] == 0


def test_a_save_that_was_interrupted_is_finished_by_the_same_command(capsys, tmp_path, monkeypatch):
    command = ["run", "--model", SMALL, "--save", str(tmp_path / "out"), "--max-shard-size", "500", "--json"]
    with monkeypatch.context() as patch:
        saved = _run.save_model

        def interrupted(*given: object, **named: object) -> object:
            saved(*given, **named)
            next((tmp_path / "out").glob("*1-of-*.safetensors")).unlink()
            raise KeyboardInterrupt

        patch.setattr(_run, "save_model", interrupted)
        assert main(command) == 130
    assert capsys.readouterr().err.endswith("convinit_ext run: interrupted; the same command finishes it\n")
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)["saved"]
    assert len(found["files"]) == 2 and len(found["skipped"]) == 1


def finding_models() -> dict[str, str]:
    """Return the environment of a command whose models are in tests/support."""
    folders = [str(PAGE.parents[1] / "tests" / "support"), str(Path(convinit_ext.__file__).parents[1])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(folders)}


@pytest.mark.parametrize(
    "command",
    [["info"], ["verify", "weights", "--model", SMALL], ["fingerprint", "--model", SMALL, "--json"]],
)
def test_a_reader_that_went_away_is_no_error_and_no_answer(tmp_path, command):
    folder = str(tmp_path / "weights")
    assert main(["run", "--model", SMALL, "--save", folder]) == 0
    reads, writes = os.pipe()
    os.close(reads)
    result = subprocess.run(
        [sys.executable, "-m", "convinit_ext", *(folder if each == "weights" else each for each in command)],
        env=finding_models(),
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writes)
    assert result.returncode == 141 and "Error" not in result.stderr and "error" not in result.stderr


def test_run_fits_a_terminal_of_80_columns():
    """All that it prints, on a terminal that is one."""
    reads, writes = pty.openpty()
    fcntl.ioctl(writes, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "convinit_ext", "run", "--model", f"{MODELS}:wide", "--repeats", "1"]
    environment = {name: value for name, value in finding_models().items() if name != "COLUMNS"}
    with subprocess.Popen(
        command, env=environment, stdout=writes, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writes)
        parts = []
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(reads, 4096):
                parts.append(part)
        os.close(reads)
    lines = b"".join(parts).decode().splitlines()
    assert process.returncode == 0 and "warm: fill in place" in lines[-1]
    assert max(map(len, lines)) <= 80, lines
    assert any("left out to fit: " in line for line in lines)


def test_the_page_has_every_command_and_status():
    page = PAGE.read_text()
    assert all(f"## {name}" in page for name in _COMMANDS)
    assert all(re.search(rf"^\| {status} \|", page, re.MULTILINE) for status in (0, 1, 2, 130, 141))

"""The commands that need no cluster, as a user runs them."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from berth.cli.app import app

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
TINY = ROOT / "examples" / "tiny.yaml"


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Berth = Callable[..., Done]


@pytest.fixture
def berth(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Berth:
    """The command in this process: a process of its own takes a second to start."""
    monkeypatch.chdir(ROOT)

    def run(*words: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["berth", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            app()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_valid_and_renders(berth: Berth, path: Path) -> None:
    done = berth("render", str(path))
    assert done.returncode == 0, done.stderr
    machines = done.stdout.split("</domain>\n")[:-1]  # one after the other
    assert len(machines) == path.read_text().count("kind: VirtualMachine\n")
    assert all(ElementTree.fromstring(f"{text}</domain>").tag == "domain" for text in machines)


def test_the_smallest_example_has_at_most_twelve_lines() -> None:
    lines = [line for line in TINY.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 12


def test_a_typo_is_told_with_file_line_and_a_guess(berth: Berth) -> None:
    done = berth("validate", "-", stdin=TINY.read_text().replace("initrdPath", "initrdpath"))
    assert done.returncode == 1
    assert '<stdin>:10: spec.boot.kernel.initrdpath: unknown field; did you mean "initrdPath"?' in done.stderr


def test_problems_of_all_files_are_told(berth: Berth, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(TINY.read_text() + "  colour: red\n")
    done = berth("validate", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"))
    assert "a.yaml:12: spec.colour" in done.stderr
    assert "b.yaml:12: spec.colour" in done.stderr
    assert "2 problems found" in done.stderr


def test_a_file_that_is_not_there_is_named(berth: Berth) -> None:
    done = berth("validate", "nowhere.yaml")
    assert done.returncode == 1
    assert "nowhere.yaml cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_plan_of_a_new_machine_ends_with_a_running_guest(berth: Berth) -> None:
    steps = [line.split()[1] for line in berth("plan", str(TINY)).stdout.splitlines()[1:]]
    assert steps[-2:] == ["MarkStarted", "Resume"]


def test_the_plan_of_a_running_machine_is_to_leave_it_alone(berth: Berth, tmp_path: Path) -> None:
    running = tmp_path / "domain.xml"
    running.write_text(berth("render", str(TINY)).stdout)
    done = berth("plan", str(TINY), "--observed", str(running))
    assert "nothing to do" in done.stdout, done.stderr


def test_the_plan_names_what_waits_for_the_next_start(berth: Berth, tmp_path: Path) -> None:
    running = tmp_path / "domain.xml"
    running.write_text(berth("render", str(TINY)).stdout)
    more = TINY.read_text() + "  memory: {size: 1Gi}\n"
    done = berth("plan", "-", "--observed", str(running), stdin=more)
    assert "at the next start" in done.stdout, done.stderr
    assert "memory" in done.stdout


def test_a_paused_machine_is_suspended(berth: Berth, tmp_path: Path) -> None:
    running = tmp_path / "domain.xml"
    running.write_text(berth("render", str(TINY)).stdout)
    done = berth("plan", "-", "--observed", str(running), stdin=TINY.read_text() + "  power: Paused\n")
    assert "Suspend" in done.stdout


def test_a_domain_that_is_not_ours_is_an_error_without_a_traceback(berth: Berth, tmp_path: Path) -> None:
    strange = tmp_path / "domain.xml"
    strange.write_text("<domain type='kvm'/>")
    done = berth("plan", str(TINY), "--observed", str(strange))
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_generated_files_are_up_to_date_and_printed(berth: Berth) -> None:
    assert berth("crds", "--check").returncode == 0
    assert "kind: CustomResourceDefinition" in berth("crds").stdout


def test_rendering_does_not_import_the_kubernetes_client() -> None:
    code = f"import sys; sys.argv=['berth','render',{str(TINY)!r}]\nfrom berth.cli.app import build\n"
    code += "try: build()()\nexcept SystemExit: pass\nassert 'kubernetes' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

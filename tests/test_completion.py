"""Shell completion: the printed script, in a real bash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import HANG

from icl_bench.cli import main
from icl_bench.suite import shipped_suites

BASH = shutil.which("bash")

ASK = """\
eval "$(icl-bench completion bash)"
ask() {
  COMP_LINE="$1"; COMP_POINT=${#1}; COMP_TYPE=9; COMPREPLY=()
  read -ra COMP_WORDS <<< "$1"
  [[ "$1" == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
  local how; how=$(complete -p icl-bench); how=${how##*-F }; how=${how%% *}
  "$how" icl-bench "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
  printf '%s\\n' "${COMPREPLY[@]}"
}
ask "$1"
"""


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return what bash offers after a line, as a set of words."""
    program = tmp_path / "bin" / "icl-bench"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m icl_bench.cli "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    (tmp_path / "work" / "below").mkdir(parents=True)
    (tmp_path / "work" / "mine.yaml").write_text("")
    (tmp_path / "work" / "notes.txt").write_text("")

    def offered(line: str) -> set[str]:
        done = subprocess.run(
            [str(BASH), "-c", ASK, "bash", line],
            cwd=tmp_path / "work",
            capture_output=True,
            text=True,
            timeout=HANG,
        )
        assert done.returncode == 0, done.stderr
        return {word.rstrip() for word in done.stdout.splitlines()}

    return offered


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_bash_completes_commands_suites_and_models(ask) -> None:
    assert ask("icl-bench re") == {"report"}
    assert {"run", "compare", "train-reference"} <= ask("icl-bench ")
    suites = ask("icl-bench run builtin:induction-2l --suite ")
    assert set(shipped_suites()) <= suites and "mine.yaml" in suites
    assert "notes.txt" not in suites
    assert ask("icl-bench run --suite=ga") == {"gate"}
    assert ask("icl-bench run --save") == {"--save-baseline"}
    assert ask("icl-bench list met") == {"metrics"}
    assert ask("icl-bench cache --cl") == {"--clear"}
    assert ask("icl-bench cache --cache-dir=be") == {"below/"}
    # A colon parts words in bash: what is offered is what comes after it.
    assert ask("icl-bench run builtin:ind") & {"induction-2l", "builtin:induction-2l"}
    assert ask("icl-bench list nothing-like-it") == {""}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "icl-bench" in text and ("complete" in text or "compdef" in text)
    found = shutil.which(shell)
    if found:
        done = subprocess.run([found, "-n"], input=text, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_an_unknown_shell_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["completion", "bsh"])
    assert leaving.value.code == 4
    assert "did you mean 'bash'?" in capsys.readouterr().err

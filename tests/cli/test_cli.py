import subprocess
import sys

import pytest

from atrous.cli import main


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("demo", "evaluate", "info", "inspect", "predict", "train"))


@pytest.mark.parametrize("arguments", [[], ["fly"], ["predict"], ["demo", "--seed", "one"]], ids=str)
def test_wrong_words_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: atrous" in capsys.readouterr().err


def test_an_error_is_one_sentence_and_exit_2():
    """As a person runs it: a process of its own, no traceback."""
    words = ["predict", "absent.png", "--weights", "absent.safetensors", "--out", "out"]
    done = subprocess.run([sys.executable, "-m", "atrous", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "atrous: absent.png: no such image file\n"


def test_an_interrupt_is_130(monkeypatch, capsys):
    def stop(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("atrous.cli.info.run", stop)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "atrous: interrupted\n"

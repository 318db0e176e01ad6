import pytest

from atrous.cli import main


def test_weights_that_are_absent(capsys):
    assert main(["evaluate", "--data", "textures", "--weights", "absent.safetensors"]) == 2
    assert capsys.readouterr().err == "atrous: absent.safetensors: no such weights file\n"


def test_a_split_that_is_none(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--data", "textures", "--weights", "a", "--split", "all"])
    assert stop.value.code == 2
    assert "expected" in (text := capsys.readouterr().err) or "invalid choice: 'all'" in text

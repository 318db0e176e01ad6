import pytest

from atrous import DataError
from atrous._files import whole_file


def test_appears_whole(tmp_path):
    target = tmp_path / "deep" / "a.txt"
    with whole_file(target) as part:
        part.write_text("one")
        assert not target.exists()
        assert part.suffix == ".txt"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write():
        with whole_file(target) as part:
            part.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_message(tmp_path):
    (tmp_path / "file").write_text("")
    message = r"file/a.txt: cannot be written \(.*\); choose a folder"
    with pytest.raises(DataError, match=message), whole_file(tmp_path / "file" / "a.txt") as part:
        part.write_text("")

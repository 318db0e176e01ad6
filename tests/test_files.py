import errno

import pytest

from atrous import DataError
from atrous._files import whole_file, writable_folder


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
    message = r"file/a.txt: cannot be written \(.*\); choose another place"
    with pytest.raises(DataError, match=message), whole_file(tmp_path / "file" / "a.txt") as part:
        part.write_text("")


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(DataError, match=r"a.txt: cannot be written \(No space left\); free some space"):
        write(target, OSError(errno.ENOSPC, "No space left"))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def write(target, error):
    with whole_file(target) as part:
        part.write_text("half")
        raise error


def test_writable_folder(tmp_path):
    assert writable_folder(tmp_path / "new" / "deep").is_dir()
    assert list((tmp_path / "new" / "deep").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file: cannot be written \(.*\); choose another place"):
        writable_folder(tmp_path / "file")

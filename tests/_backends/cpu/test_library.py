from atrous._backends.cpu.library import load


def test_a_missing_library_is_a_reason_and_no_error():
    assert load("atrous._no_such_library") == "the compiled operations are missing"


def test_a_broken_library_is_a_reason_and_no_error(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("not a library")
    monkeypatch.syspath_prepend(tmp_path)
    assert load("broken_library").startswith("the compiled operations do not load (")

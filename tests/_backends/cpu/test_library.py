from atrous._backends.cpu.library import load

REMEDY = "; `pip install -v .` from a clone builds them, or shows whether a C++ compiler is missing or the build fails"


def test_a_missing_library_is_a_reason_and_no_error():
    assert load("atrous._no_such_library") == f"the compiled operations are missing{REMEDY}"


def test_a_broken_library_is_a_reason_and_no_error(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("not a library")
    monkeypatch.syspath_prepend(tmp_path)
    reason = load("broken_library")
    assert reason.startswith("the compiled operations do not load (")
    assert reason.endswith(f"){REMEDY}")

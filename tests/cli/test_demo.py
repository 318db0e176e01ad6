from atrous.cli import main


def test_passes_its_options_and_prints_the_four_scores(monkeypatch, capsys, tmp_path):
    metrics = {"front_end": 0.5, "with_context": 0.625, "undilated": 0.51, "default_init": 0.1, "seconds": 12.3}
    seen = []
    monkeypatch.setattr("atrous.train.run_demo", lambda out, seed: seen.append((out, seed)) or metrics)
    assert main(["demo", "--seed", "7", "--out", str(tmp_path)]) == 0
    assert seen == [(tmp_path, 7)]
    text = capsys.readouterr().out
    assert "with_context  mean IoU 0.625" in text
    assert f"12 seconds; look at {tmp_path / 'report.html'}" in text


def test_an_unwritable_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert "file: cannot be written" in capsys.readouterr().err

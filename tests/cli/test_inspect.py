import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from atrous import AtrousError, CheckpointError, DataError, ShapeError, UnsupportedModule
from atrous.cli import main
from atrous.cli.inspect import load, read_images

STACK = "torch.nn:Conv2d(1, 2, 3, dilation=2)"

MODULE = """
import torch

network = torch.nn.Conv2d(1, 1, 5)


def classifier():
    layers = torch.nn.Conv2d(1, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10)
    return torch.nn.Sequential(*layers)


class Opaque(torch.nn.Module):
    def forward(self, image):
        return torch.ops.inspected.opaque(image)


class Dictionary(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3)

    def forward(self, image):
        return {"out": self.layer(image)}


class Masked(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, image, mask, gain):
        return self.layer(image * mask) * gain


def number():
    return 3
"""


@torch.library.custom_op("inspected::opaque", mutates_args=())
def opaque(image: torch.Tensor) -> torch.Tensor:
    return image.clone()


opaque.register_fake(torch.empty_like)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Stand in a folder with a module, and leave `sys.path` as it was."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_networks.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("my_networks", None)


def inspected(capsys, *words):
    assert main(["inspect", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_prints_the_tables(capsys):
    assert main(["inspect", STACK, "--input", "1,1,20,24"]) == 0
    text = capsys.readouterr().out
    for title in ("Receptive field", "Gridding", "Cost", "Effective receptive field"):
        assert f"{title}\n\n" in text
    assert re.search(r"conv2d +5 +1 +0 +16x20\n", text)
    assert re.search(r"0 +5 +3/5 +2 +1\n", text)
    assert re.search(r"conv2d +1x2x16x20 +5760", text)
    assert "Borders" not in text
    assert "Equivariance" not in text


def test_json_is_one_object_with_every_analysis(capsys):
    found = inspected(capsys, STACK, "--input", "1,1,40,40", "--shifts", "3", "--borders", "12")
    assert list(found) == [
        "network",
        "input",
        "others",
        "on_noise",
        "receptive_field",
        "gridding",
        "cost",
        "effective_receptive_field",
        "equivariance",
        "borders",
        "skipped",
    ]
    assert (found["network"], found["input"], found["skipped"]) == (STACK, [1, 1, 40, 40], {})
    assert found["receptive_field"]["whole"]["receptive_field"] == [5, 5]
    assert found["gridding"]["coverage"] == "9/25"
    assert found["effective_receptive_field"]["images"] == 8
    assert [one["exact"] for one in found["equivariance"]["shifts"]] == [True] * 9
    assert found["borders"]["clear"] == 0


def test_runs_are_equal(capsys):
    assert inspected(capsys, STACK, "--input", "1,1,20,20") == inspected(capsys, STACK, "--input", "1,1,20,20")


def test_the_random_numbers_of_the_process_are_left_alone(capsys):
    before = torch.random.get_rng_state()
    inspected(capsys, STACK, "--input", "1,1,20,20")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_batch_is_kept(capsys):
    assert inspected(capsys, STACK, "--input", "3,1,20,20")["effective_receptive_field"]["images"] == 9


def test_a_volume_and_a_signal(capsys):
    found = inspected(capsys, "torch.nn:Conv1d(2, 2, 3)", "--input", "1,2,16")
    assert found["receptive_field"]["whole"]["receptive_field"] == [3]
    found = inspected(capsys, "torch.nn:Conv3d(1, 1, (1, 3, 5))", "--input", "1,1,6,7,8")
    assert found["receptive_field"]["whole"]["receptive_field"] == [1, 3, 5]


def test_a_network_that_reads_everything(here, capsys):
    found = inspected(capsys, "my_networks:classifier", "--input", "1,1,12,12", "--shifts", "2", "--borders", "4")
    assert found["receptive_field"]["whole"]["global"] == [True, True]
    assert found["effective_receptive_field"]["receptive_field"] == [12, 12]
    assert sorted(found["skipped"]) == ["borders", "equivariance"]
    assert "pass the part before its global layer" in found["skipped"]["equivariance"]


def test_what_is_skipped_is_printed_with_its_reason(here, capsys):
    assert main(["inspect", "my_networks:classifier", "--input", "1,1,12,12", "--shifts", "2"]) == 0
    assert "Equivariance\n\nskipped: equivariance: got a network whose output" in capsys.readouterr().out


def test_the_current_directory_is_importable(here, capsys):
    found = inspected(capsys, "my_networks:network", "--input", "1,1,12,12")
    assert found["receptive_field"]["whole"]["receptive_field"] == [5, 5]
    found = inspected(capsys, "my_networks:Dictionary", "--input", "1,1,12,12")
    assert found["effective_receptive_field"]["receptive_field"] == [3, 3]


def test_arguments_are_literals():
    network, shapes = load("torch.nn:Conv2d(1, 2, (3, 5), bias=False)", [(1, 1, 9, 9)])
    assert network.kernel_size == (3, 5)
    assert network.bias is None
    assert shapes == ((1, 1, 9, 9),)


@pytest.mark.parametrize(
    "words",
    [
        "torch.nn",
        "torch.nn:",
        ":Conv2d",
        "torch.nn:Conv2d(1, 2, print())",
        "torch.nn:Conv2d(*[1, 2, 3])",
        "torch.nn:Conv2d(**{'in_channels': 1})",
        "torch.nn:Conv2d(1, 2, 3",
        "torch.nn:Conv2d(1, 1, 1)(2)",
        "torch.nn:[Conv2d][0]",
    ],
)
def test_other_words_are_refused(words):
    with pytest.raises(AtrousError, match=r"expected package\.module:callable, .* with literal arguments, or a FILE"):
        load(words, [(1, 1, 9, 9)])


def test_what_cannot_be_built_is_one_sentence(here):
    (here / "torn.py").write_text("def\n")
    shapes = [(1, 1, 9, 9)]
    with pytest.raises(AtrousError, match=r"absent:x: absent cannot be imported \(No module named 'absent'\); look at"):
        load("absent:x", shapes)
    with pytest.raises(AtrousError, match="torn:x: torn cannot be imported"):
        load("torn:x", shapes)
    with pytest.raises(AtrousError, match="no attribute 'Absent'; look at what my_networks defines"):
        load("my_networks:Absent", shapes)
    with pytest.raises(AtrousError, match=r"the call fails \(.* missing 1 .*; give arguments that fit"):
        load("torch.nn:ReflectionPad2d", shapes)
    with pytest.raises(UnsupportedModule, match=r"my_networks:number: got int, expected a torch\.nn\.Module; name a"):
        load("my_networks:number", shapes)
    with pytest.raises(AtrousError, match="got no --input, expected the shape of its input; give one, as --input 1,3"):
        load("my_networks:network")


@pytest.mark.parametrize("words", [("my_networks:Opaque",), (STACK, "--html", "new/inspect.html")])
def test_a_network_without_a_rule_or_of_other_channels_is_one_sentence(here, capsys, words):
    assert main(["inspect", words[0], "--input", "1,3,9,9", *words[1:]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("atrous: trace_footprint: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--input", "1,x"), "got '1,x', expected sizes of at least 1, such as 1,3,512,512"),
        (("--input", "1,3,0,5"), "got '1,3,0,5', expected sizes of at least 1"),
        (("--shifts", "0"), "got '0', expected a number of pixels, at least 1"),
        (("--borders", "-3"), "got '-3', expected a number of pixels, at least 1"),
    ],
)
def test_options_that_are_no_numbers(words, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["inspect", STACK, "=".join(words)])
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


TWO = ("my_networks:Masked", "--input", "2,1,16,16", "--input", "2,1,16,16", "--input", "1")


def test_several_inputs(here, capsys):
    found = inspected(capsys, *TWO, "--shifts", "2")
    assert (found["input"], found["others"]) == ([2, 1, 16, 16], [[2, 1, 16, 16], [1]])
    assert found["effective_receptive_field"]["receptive_field"] == [3, 3]
    assert all(one["exact"] for one in found["equivariance"]["shifts"])
    assert found["skipped"] == {}
    import my_networks

    example = torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 16), torch.zeros(1)
    torch.export.save(torch.export.export(my_networks.Masked(), example), here / "two.pt2")
    found = inspected(capsys, "two.pt2")
    assert (found["input"], found["others"], found["skipped"]) == ([2, 1, 16, 16], [[2, 1, 16, 16], [1]], {})


def test_an_input_that_is_missing_or_no_image_is_one_sentence(here, capsys):
    assert main(["inspect", *TWO[:3]]) == 2
    assert "Masked does not run on the example: " in capsys.readouterr().err
    assert main(["inspect", "torch.nn:Linear(5, 2)", "--input", "3,5"]) == 2
    assert "got a first input of shape (3, 5), expected (B, C, *S)" in capsys.readouterr().err


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index, size in enumerate([(40, 30), (9, 50), (24, 24)]):
        pixels = np.random.default_rng(index).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.PNG")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_images_instead_of_noise(photographs, tmp_path, capsys):
    words = (STACK, "--input", "1,1,20,24", "--html", str(tmp_path / "inspect.html"))
    found = inspected(capsys, *words, "--images", str(photographs))
    assert (found["effective_receptive_field"]["images"], found["on_noise"]) == (3, False)
    assert "the mean absolute gradient over 3 images from files." in (tmp_path / "inspect.html").read_text()
    one = inspected(capsys, *words, "--images", str(photographs / "0.PNG"))
    assert one["effective_receptive_field"]["images"] == 1
    assert "the mean absolute gradient over 1 image from files." in (tmp_path / "inspect.html").read_text()


def test_images_are_scaled_to_cover_the_input_and_standardised(photographs):
    images = read_images([photographs, photographs / "2.PNG"], (2, 3, 12, 12))
    assert images.shape == (4, 3, 12, 12)
    torch.testing.assert_close(images.mean((1, 2, 3)), torch.zeros(4))
    torch.testing.assert_close(images[2], images[3])
    Image.new("L", (20, 10)).save(photographs / "stripe.png")
    with Image.open(photographs / "stripe.png") as stripe:
        stripe.paste(255, (5, 0, 10, 10))
        stripe.save(photographs / "stripe.png")
    # Of 20 x 10 pixels the middle 10 x 10: a white half, a black half.
    (image,) = read_images([photographs / "stripe.png"], (1, 1, 10, 10))
    torch.testing.assert_close(image[0], torch.tensor([1.0, -1.0]).repeat_interleave(5).expand(10, 10))


def test_of_many_images_some_are_taken_evenly(photographs):
    images = read_images([photographs / "0.PNG"] * 100 + [photographs / "1.PNG"] * 100, (1, 1, 8, 8))
    assert len(images) == 64
    assert torch.equal(images[0], images[31])
    assert torch.equal(images[32], images[63])
    assert not torch.equal(images[0], images[63])


def test_images_that_do_not_fit_are_one_sentence(photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    (photographs / "torn.jpg").write_bytes(b"torn")
    shape = (1, 3, 12, 12)
    with pytest.raises(DataError, match="absent: no such image file or folder"):
        read_images([tmp_path / "absent"], shape)
    with pytest.raises(DataError, match="empty: holds no image, expected a folder with JPEG, PNG or TIFF files; give"):
        read_images([tmp_path / "empty"], shape)
    with pytest.raises(DataError, match=r"torn\.jpg: cannot be read as an image \(no such format\)"):
        read_images([photographs], shape)
    with pytest.raises(ShapeError, match=r"--images: got an input of 1,5,12,12, expected B,1,H,W \(grey\) or B,3,H,W"):
        read_images([photographs], (1, 5, 12, 12))
    with pytest.raises(
        DataError, match="got 1 images, expected a multiple of the batch of 2; give --input a batch of 1"
    ):
        read_images([photographs / "0.PNG"], (2, 3, 12, 12))


def saved(path, dynamic_shapes=None):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.BatchNorm2d(2)).eval()
    program = torch.export.export(network, (torch.zeros(1, 1, 16, 16),), dynamic_shapes=dynamic_shapes)
    torch.export.save(program, path)
    return str(path)


def test_a_saved_program(tmp_path, capsys):
    path = saved(tmp_path / "net.pt2")
    found = inspected(capsys, path, "--shifts", "2")
    assert found["input"] == [1, 1, 16, 16]
    assert [layer["module"] for layer in found["receptive_field"]["layers"]] == ["", "0", "1"]
    assert found["effective_receptive_field"]["receptive_field"] == [3, 3]
    assert all(one["exact"] for one in found["equivariance"]["shifts"])
    assert inspected(capsys, path, "--input", "1,1,16,16", "--shifts", "2") == found
    with pytest.raises(
        CheckpointError, match="got --input 1,1,9,9, expected --input 1,1,16,16, as it was exported; leave"
    ):
        load(path, [(1, 1, 9, 9)])


def test_a_saved_program_of_open_sizes(tmp_path, capsys):
    path = saved(tmp_path / "net.pt2", ({2: torch.export.Dim("height", max=64)},))
    assert inspected(capsys, path, "--input", "1,1,12,16")["receptive_field"]["whole"]["size"] == [12, 16]
    with pytest.raises(CheckpointError, match="was exported for open sizes; give those to look at, as --input"):
        load(path)


def test_files_that_are_no_programs(tmp_path):
    (tmp_path / "torn.pt2").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"absent\.pt2: no such file"):
        load(str(tmp_path / "absent.pt2"))
    with pytest.raises(
        CheckpointError, match=r"torn\.pt2: holds no exported program; write one by torch\.export\.save"
    ):
        load(str(tmp_path / "torn.pt2"))
    program = torch.export.export(Added(), (3, torch.zeros(1, 1, 4, 4)))
    torch.export.save(program, tmp_path / "number.pt2")
    with pytest.raises(CheckpointError, match=r"without a tensor as first input, expected one that takes images"):
        load(str(tmp_path / "number.pt2"))


class Added(torch.nn.Module):
    def forward(self, number, image):
        return image + number


def test_writes_a_report(tmp_path, capsys):
    assert main(["inspect", STACK, "--input", "1,1,20,20", "--html", str(tmp_path / "new" / "inspect.html")]) == 0
    assert capsys.readouterr().out.endswith(f"look at {tmp_path / 'new' / 'inspect.html'}\n")
    assert STACK in (tmp_path / "new" / "inspect.html").read_text(encoding="utf-8")


def test_a_report_beside_json_leaves_the_output_to_json(tmp_path, capsys):
    inspected(capsys, STACK, "--input", "1,1,20,20", "--html", str(tmp_path / "inspect.html"))
    assert (tmp_path / "inspect.html").is_file()


def test_a_report_that_cannot_be_written_is_said_before_any_work(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["inspect", STACK, "--input", "1,1,20,20", "--html", str(tmp_path / "file" / "inspect.html")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "file: cannot be written" in captured.err


def test_without_the_extra_there_are_tables_and_no_report(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("atrous._extras.find_spec", lambda name: None if name == "matplotlib" else object())
    words = ["inspect", STACK, "--input", "1,1,20,20"]
    assert main([*words, "--html", str(tmp_path / "inspect.html")]) == 2
    assert capsys.readouterr().err == (
        "atrous: atrous inspect --html needs matplotlib; install them by: pip install 'atrous[plots]'\n"
    )
    assert main(words) == 0


def test_says_on_a_terminal_what_it_is_at(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert main(["inspect", STACK, "--input", "1,1,20,20"]) == 0
    error = capsys.readouterr().err
    assert "\r\x1b[Kinspecting: effective receptive field\r\x1b[K" in error
    assert error.endswith("\r\x1b[K")

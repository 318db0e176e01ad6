"""Which modules count as convolutions, how they are written, and the table of what became of them."""

import pytest
import torch
from torch.nn.utils import parametrizations

from atrous import UnsupportedModule, nn
from atrous.convert import Report, Row
from atrous.convert.report import bound, check_model, convolutions, describe, refusal, tied

REPORT = Report(
    torch.nn.Identity(),
    (Row("", "Conv2d(8, 8, 3)", "faster"),),
    (Row("head", "Conv2d(8, 2, 1)", "not depthwise"),),
)


def test_it_prints_as_a_table():
    assert str(REPORT).split("\n") == [
        "1 of 2 convolutions changed",
        "changed  (the model)  Conv2d(8, 8, 3)  faster",
        "kept     head         Conv2d(8, 2, 1)  not depthwise",
    ]
    assert str(Report(torch.nn.Identity(), (), ())) == "0 of 0 convolutions changed"
    assert "Identity" not in repr(REPORT)


def test_its_rows_are_plain_data():
    assert REPORT.to_dict() == {
        "changed": [{"name": "", "what": "Conv2d(8, 8, 3)", "reason": "faster"}],
        "kept": [{"name": "head", "what": "Conv2d(8, 2, 1)", "reason": "not depthwise"}],
    }


def test_what_is_no_module():
    check_model("f", torch.nn.Identity())
    with pytest.raises(UnsupportedModule, match=r"f: got a Tensor, expected a torch\.nn\.Module"):
        check_model("f", torch.zeros(1))


def test_a_convolution_is_met_once_by_its_first_name():
    layer = torch.nn.Conv1d(2, 2, 3)
    model = torch.nn.Sequential(layer, torch.nn.Linear(2, 2), layer, nn.ConvTranspose2d(2, 2, 3))
    assert [name for name, _ in convolutions(model)] == ["0", "3"]
    assert [name for name, _ in convolutions(layer)] == [""]
    assert not [*convolutions(nn.Dcls1d(2, 2, 1, dilated_kernel_size=3))]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_how_a_convolution_is_written():
    layer = torch.nn.Conv2d(4, 8, (1, 3), stride=2, padding=(0, 1), groups=4)
    written = "Conv2d(4, 8, (1, 3), stride=2, padding=(0, 1), groups=4)"
    assert describe(layer) == written
    assert describe(parametrizations.weight_norm(layer)) == written
    assert describe(torch.nn.Linear(8, 3, bias=False)) == "Linear(8, 3)"
    assert describe(torch.jit.trace(torch.nn.Conv1d(2, 2, 3), torch.zeros(1, 2, 5))) == "Conv1d(...)"


def test_what_does_not_count_as_its_class():
    layer = torch.nn.Conv1d(2, 2, 3)
    assert refusal(layer, {torch.nn.Conv1d}) is None
    assert (
        refusal(layer, {torch.nn.Conv2d}) == "its class is torch.nn.modules.conv.Conv1d, whose forward may be its own"
    )
    layer.forward = lambda image: image
    assert refusal(layer, {torch.nn.Conv1d}) == "its forward was replaced"


def test_what_holds_a_weight_in_its_place():
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(4)), torch.nn.Linear(2, 2, dtype=torch.cfloat))
    model[1].weight = model[0].weight
    parametrizations.weight_norm(model[2])
    assert tied(model) == {model[0].weight}
    reasons = [bound(module, tied(model)) for module in model]
    assert reasons[0] == reasons[1] == "another module has the same weight, and the two would come apart"
    assert reasons[2].startswith("a parametrization or a hook computes its weight or bias")
    assert reasons[3:] == [None, "its weight is torch.complex64"]

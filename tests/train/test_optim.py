import pytest
import torch

from atrous.train import SegmentRecipe
from atrous.train.optim import optimizer, schedule


def factors(epochs, steps, **options):
    one = torch.optim.SGD([torch.zeros(1)], 1.0)
    found = schedule(one, SegmentRecipe(**options), epochs, steps, "val/x")["scheduler"].lr_lambdas[0]
    return [found(step) for step in range(steps)]


def test_schedules():
    assert factors(2, 4, schedule="constant") == [1.0] * 4
    assert factors(2, 4, schedule="cosine") == pytest.approx([1, 0.8536, 0.5, 0.1464], abs=1e-4)
    assert factors(2, 4, schedule="poly") == pytest.approx([(1 - step / 4) ** 0.9 for step in range(4)])
    assert factors(4, 8, schedule="constant", warmup_epochs=2)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert min(factors(4, 8, schedule="cosine", warmup_epochs=4)) == 0.125


def test_a_plateau_watches_the_metric():
    one = torch.optim.SGD([torch.zeros(1)], 1.0)
    found = schedule(one, SegmentRecipe(schedule="plateau"), 2, 4, "val/mean_iou")
    assert found["monitor"] == "val/mean_iou"
    for _ in range(3):
        found["scheduler"].step(0.5)
    assert one.param_groups[0]["lr"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimizers(name, kind):
    recipe = SegmentRecipe(optimizer=name, momentum=0.5)
    found = optimizer([{"params": [one]} for one in torch.nn.Linear(2, 2).parameters()], recipe, 0.3)
    assert type(found) is kind
    assert [group["lr"] for group in found.param_groups] == [0.3, 0.3]
    if name == "sgd":
        assert found.param_groups[0]["momentum"] == 0.5

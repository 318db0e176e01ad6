"""The callbacks in short runs of Lightning."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from atrous import GeometryError, UnsupportedModule
from atrous.nn import Dcls1d
from atrous.recipe import param_groups, repulsive_loss, share_positions
from atrous.train.callbacks import AnnealScales, ClampPositions, RecordPositions, Repulsion

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.` is deprecated"),
]


class Delays(lightning.LightningModule):
    """Pushes all positions by `push` pixels in every step."""

    def __init__(self, push=0.0, interpolation="bilinear"):
        super().__init__()
        size = {"padding": "same", "dilated_kernel_size": 9}
        self.layer = Dcls1d(1, 1, 3, interpolation=interpolation, **size)
        self.push, self.seen = push, []

    def training_step(self, batch, index):
        return self.layer(batch).mean() * 0 - self.push * self.layer.P.sum()

    def on_train_epoch_start(self):
        self.seen.append(self.layer.P.detach().clone())

    def configure_optimizers(self):
        return torch.optim.SGD(param_groups(self, 1.0, 0.0, position_lr_scale=1.0))


def run(module, *callbacks, epochs=1, steps=2):
    options = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), **options)
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(steps, 1, 12)))
    return module


def test_clamping_precedes_the_mean():
    module = Delays(push=50.0)
    torch.nn.init.zeros_(module.layer.P)
    kept = EMAWeightAveraging("cpu", decay=0.5)
    run(module, kept, ClampPositions(), steps=3)
    # Every step ends at the limit of the window, and so does the mean.
    assert torch.equal(module.layer.P, torch.full_like(module.layer.P, 4.0))


def test_without_clamping_the_mean_is_outside():
    module = Delays(push=50.0)
    torch.nn.init.zeros_(module.layer.P)
    run(module, EMAWeightAveraging("cpu", decay=0.5), steps=3)
    assert module.layer.P.min() > 4


def test_elements_part_after_the_epoch_and_not_before():
    torch.manual_seed(0)
    module = Delays()
    start = module.layer.P.detach().clone()
    expected = repulsive_loss(module).square()
    (gradient,) = torch.autograd.grad(expected, module.layer.P)
    run(module, Repulsion(after_epoch=1), epochs=4, steps=1)
    first, _, third, fourth = module.seen
    assert torch.equal(first, start)
    assert torch.equal(third, start)
    torch.testing.assert_close(fourth, third - gradient)
    assert repulsive_loss(module) < expected.sqrt()


def test_repulsion_adds_to_the_gradient_of_the_loss():
    module = Delays(push=0.25)
    start = module.layer.P.detach().clone()
    (gradient,) = torch.autograd.grad(repulsive_loss(module).square(), module.layer.P)
    run(module, Repulsion(after_epoch=-1), steps=1)
    torch.testing.assert_close(module.layer.P.detach(), start + 0.25 - gradient)


def test_frozen_positions_do_not_part():
    module = Delays()
    module.layer.P.requires_grad_(False)
    start = module.layer.P.detach().clone()
    run(module, Repulsion(after_epoch=-1), steps=1)
    assert torch.equal(module.layer.P, start)


def test_scales_narrow_from_epoch_to_epoch_and_then_stay():
    module = Delays(interpolation="gaussian")
    scales = []
    module.on_train_epoch_end = lambda: scales.append(module.layer.SIG.unique().item())
    run(module, AnnealScales(epochs=2), epochs=4, steps=1)
    assert scales == pytest.approx([4, (4 * 0.23) ** 0.5, 0.23, 0.23])
    assert module.layer.SIG.grad is None
    assert not module.layer.SIG.requires_grad


def test_scales_are_no_part_of_the_optimizer():
    module = Delays(interpolation="gaussian")
    run(module, AnnealScales(epochs=1), steps=1)
    learned = [one for group in module.optimizers().param_groups for one in group["params"]]
    assert len(learned) == 3
    assert not any(one is module.layer.SIG for one in learned)


def test_epochs_that_cannot_be():
    with pytest.raises(GeometryError, match="AnnealScales: epochs: got 0, expected above 0"):
        AnnealScales(epochs=0)


def test_positions_are_recorded_before_and_after_every_epoch():
    module = Delays(push=0.25)
    torch.nn.init.zeros_(module.layer.P)
    record = RecordPositions(module)
    run(module, record, epochs=2, steps=3)
    assert [found["layer"].unique().tolist() for found in record.positions] == [[0.0], [0.75], [1.5]]
    assert record.learning_rates == [1.0, 1.0]
    (layer,) = record.movement().layers
    assert layer.speeds == (0.75, 0.75)
    assert module.layer.P.unique().tolist() == [1.5]


def test_a_checkpoint_brings_what_was_recorded():
    first, second = Delays(push=0.25), Delays(push=0.25)
    record = RecordPositions(first)
    run(first, record, epochs=1)
    again = RecordPositions(second)
    again.load_state_dict(record.state_dict())
    run(second, again, epochs=1)
    assert len(record.positions) == 2
    assert len(again.positions) == 3
    assert torch.equal(again.positions[0]["layer"], record.positions[0]["layer"])


def test_shared_positions_are_recorded_once():
    network = torch.nn.Sequential(*(Dcls1d(1, 1, 3, dilated_kernel_size=9, padding="same") for _ in range(2)))
    share_positions(network)
    record = RecordPositions(network)
    record.on_fit_start(None, None)
    assert [*record.positions[0]] == ["0"]


def test_repulsion_wants_something_to_part():
    class Plain(Delays):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv1d(1, 1, 3)

    with pytest.raises(UnsupportedModule, match="repulsive_loss: got Plain without a layer of learned spacings"):
        run(Plain(), Repulsion())

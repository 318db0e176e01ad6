import pytest
import torch

from atrous import DataError
from atrous.nn import Dcls2d
from atrous.train.callbacks import ClampPositions


def test_a_loss_that_is_no_number_stops_before_the_weights_change(signs):
    task, _ = signs()
    images = torch.full((1, 1, 6, 6), float("inf"))
    with pytest.raises(DataError, match=r"the loss is (nan|inf) at step 0, in the batch of \[3\]; last .*: none; try"):
        task.training_step((images, torch.zeros(1, 6, 6).long(), torch.tensor([3])), 0)


def test_images_of_several_sizes_are_judged_together(signs):
    task, _ = signs()
    batches = [(torch.randn(2, 1, size, 6), torch.zeros(2, size, 6).long(), torch.tensor([0, 1])) for size in (6, 4)]
    task.test_step(batches, 0)
    assert task.test_metrics.compute()["confusion"].sum() == 2 * 6 * 10


def test_biases_and_norms_do_not_decay(signs):
    task, _ = signs(weight_decay=0.5)
    found = {group["weight_decay"]: [tuple(one.shape) for one in group["params"]] for group in task.parameter_groups()}
    assert found == {0.5: [(2, 1, 1, 1)], 0.0: [(2,)]}


def test_positions_of_any_task_are_clamped(signs):
    task, _ = signs()
    assert task.configure_callbacks() == []
    task.network = torch.nn.Sequential(Dcls2d(1, 1, 1, dilated_kernel_size=3))
    assert [type(callback) for callback in task.configure_callbacks()] == [ClampPositions]


def test_a_mean_over_processes_divides_by_the_share_of_one(signs):
    task, _ = signs()
    assert task.share(torch.tensor(7)) == 7
    assert task.share(torch.tensor(0)) == 1

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from atrous.models import ScoreUpsample, dilation_small
from atrous.train import Segment, SegmentRecipe, evaluate


def make(network=None, upsample=None, classes=3):
    return Segment(network or torch.nn.Identity(), upsample or ScoreUpsample(4, "corner"), classes, SegmentRecipe())


def test_the_loss_is_on_the_grid_of_the_scores_and_leaves_255_out():
    scores, labels = torch.randn(2, 3, 2, 3), torch.randint(3, (2, 8, 12))
    labels[0, 0, 0] = 255
    sampled = labels[:, ::4, ::4]
    expected = -F.log_softmax(scores, 1).gather(1, sampled.clamp(max=2)[:, None])[:, 0][sampled != 255].mean()
    torch.testing.assert_close(make().training_step((scores, labels), 0), expected)


def test_a_batch_without_a_label_that_counts_has_no_loss():
    assert make().training_step((torch.randn(1, 3, 2, 2), torch.full((1, 8, 8), 255)), 0) == 0


def test_a_network_with_features_is_trained_before_its_upsampling():
    net = dilation_small(3, 1, width=1 / 16)
    assert make(net, net.upsample)(torch.zeros(1, 1, 40, 44)).shape == (1, 3, 10, 11)


def test_a_frozen_front_end_stays_in_evaluation():
    net = dilation_small(3, 1, width=1 / 16).train()
    task = make(net, net.upsample)
    task.on_train_epoch_start()
    assert net.front_end.training
    net.front_end.requires_grad_(False)
    task.on_train_epoch_start()
    assert (net.front_end.training, net.context.training) == (False, True)


@pytest.mark.parametrize("alignment", ["corner", "centre"])
@pytest.mark.parametrize("size", [(8, 12), (9, 10), (3, 1)])
def test_sample_undoes_upsampling(alignment, size):
    """Labels drawn as blocks, brought to the grid of the scores, are the blocks' labels."""
    upsample = ScoreUpsample(4, alignment)
    grid = torch.randint(5, (2, -(-size[0] // 4), -(-size[1] // 4)))
    blocks = grid.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : size[0], : size[1]]
    assert torch.equal(upsample.sample(blocks), grid)


def test_metrics_by_hand():
    task = make(upsample=ScoreUpsample(1), classes=2)
    predicted, truth = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 1, 1, 255]]])
    task.test_step((F.one_hot(predicted, 2).movedim(-1, 1).float(), truth), 0)
    result = task.test_metrics.compute()
    assert result["class_iou"].tolist() == [0.5, 0.5]
    assert result["confusion"].tolist() == [[1, 0], [1, 1]]
    assert result["mean_iou"] == 0.5


def test_the_picture_has_image_labels_and_prediction():
    task = make(upsample=ScoreUpsample(1), classes=2)
    scores, labels = torch.randn(2, 2, 5, 4), torch.tensor([0, 1, 1, 255]).expand(2, 5, 4)
    picture = task.picture(scores, labels)
    assert picture.shape == (5, 12, 3)
    assert (picture[:, 7] == picture[:, 3]).all()  # no label, so the image shows
    own = Segment(torch.nn.Identity(), ScoreUpsample(1), 2, SegmentRecipe(), colours=((0, 0, 0), (1, 2, 3)))
    assert own.picture(scores, labels)[0, 4].tolist() != picture[0, 4].tolist()


def test_a_class_that_is_nowhere_has_no_iou():
    task = make(upsample=ScoreUpsample(1))
    labels = torch.tensor([[[0, 1]]])
    result = evaluate(task, DataLoader([(F.one_hot(labels[0], 3).movedim(-1, 0).float(), labels[0])]))
    assert result["class_iou"].isnan().tolist() == [False, False, True]
    assert result["mean_iou"] == 1

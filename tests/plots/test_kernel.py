import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from atrous import ShapeError
from atrous.nn import Dcls1d, Dcls2_1d, Dcls2d, Dcls3_1d, Dcls3d
from atrous.plots.kernel import kernel


def dots(axes):
    """Return the places of the elements that a panel shows."""
    return np.stack(axes.lines[-1].get_data())


def test_two_axes_are_images_in_one_scale_around_zero():
    layer = Dcls2d(6, 6, 5, dilated_kernel_size=(5, 9), groups=6)
    *panels, bar = kernel(layer.kernel(), layer.P).axes
    weights = layer.kernel().detach().numpy()
    for index, axes in enumerate(panels):
        np.testing.assert_allclose(axes.images[0].get_array(), weights[index, 0])
        assert axes.images[0].get_clim() == pytest.approx((-abs(weights).max(), abs(weights).max()))
        held = layer.P[:, index, 0].detach().numpy() + np.array([[2], [4]])
        np.testing.assert_allclose(dots(axes), held[::-1])
    assert bar.get_ylabel() == "weight"


def test_the_first_eight_pairs_are_drawn():
    figure = kernel(torch.randn(5, 3, 4, 4))
    titles = [axes.get_title(loc="left") for axes in figure.axes[:-1]]
    assert titles == [f"channel {pair % 3} to {pair // 3}" for pair in range(8)]


def test_one_axis_is_stems():
    layer = Dcls1d(1, 2, 3, dilated_kernel_size=7)
    figure = kernel(layer.kernel(), layer.P)
    for axes, weights, places in zip(figure.axes, layer.kernel()[:, 0], layer.P[0, :, 0], strict=True):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), weights.detach())
        np.testing.assert_allclose(dots(axes)[0], places.detach() + 3)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_three_axes_are_summed_over_the_first():
    layer = Dcls3d(1, 1, 4, dilated_kernel_size=(3, 5, 7))
    axes, bar = kernel(layer.kernel(), layer.P).axes
    np.testing.assert_allclose(axes.images[0].get_array(), layer.kernel()[0, 0].sum(0).detach(), atol=1e-7)
    np.testing.assert_allclose(dots(axes), layer.P[[2, 1], 0, 0].detach().numpy() + np.array([[3], [2]]))
    assert bar.get_ylabel() == "weight, summed over the first axis"


@pytest.mark.parametrize("layer", [Dcls2_1d(1, 1, 2, dense_kernel_size=3, dilated_kernel_size=9)], ids=type)
def test_a_dense_window_has_dots_in_every_row(layer):
    axes, _ = kernel(layer.kernel(), layer.P).axes
    across, down = dots(axes)
    assert down.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(across, layer.P.detach().flatten() + 4)


def test_two_dense_axes_of_three():
    layer = Dcls3_1d(1, 1, 2, dense_kernel_size=(2, 3), dilated_kernel_size=9)
    axes, _ = kernel(layer.kernel(), layer.P).axes
    assert dots(axes)[1].tolist() == [0, 0, 1, 1, 2, 2] * 2


@pytest.mark.parametrize("window", [(1, 9), (9, 1), (1, 9, 1), (9,)])
def test_axes_of_one_pixel_are_left_out(window):
    weights = torch.randn(1, 1, *window)
    (axes,) = kernel(weights).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), weights.flatten())


@pytest.mark.parametrize("window", [(1,), (1, 1), (1, 1, 1)])
def test_a_window_of_one_pixel_is_drawn(window):
    figure = kernel(torch.zeros(1, 1, *window), torch.zeros(len(window), 1, 1, 2))
    FigureCanvasAgg(figure).draw()
    assert list(figure.axes[0].lines[0].get_ydata()) == [0]
    assert dots(figure.axes[0]).tolist() == [[0, 0], [0, 0]]


def test_a_position_beyond_the_window_is_drawn_at_its_limit():
    figure = kernel(torch.zeros(1, 1, 4, 5), torch.tensor([[[[-9.0, 9.0]]], [[[-9.0, 9.0]]]]))
    assert dots(figure.axes[0]).tolist() == [[0, 4], [0, 3]]


def test_the_weight_of_any_convolution_is_drawn():
    convolution = torch.nn.Conv2d(4, 4, 3, dtype=torch.bfloat16)
    axes, *_ = kernel(convolution.weight).axes
    np.testing.assert_array_equal(axes.images[0].get_array(), convolution.weight[0, 0].detach().float())
    assert dots(axes).shape == (2, 0)


def test_ink_and_paper_are_taken():
    figure = kernel(torch.randn(1, 1, 3, 3), ink="#eeeeee", paper="#111111")
    axes, bar = figure.axes
    assert {to_hex(part.get_facecolor()) for part in (figure, axes)} == {"#111111"}
    assert {to_hex(label.get_color()) for label in (*axes.get_xticklabels(), bar.yaxis.label)} == {"#eeeeee"}


@pytest.mark.parametrize("shape", [(3, 3), (1, 1, 3, 3, 3, 3), (0, 1, 3), (1, 1, 0)])
def test_what_is_no_kernel_is_refused(shape):
    with pytest.raises(ShapeError, match=r"kernel: got shape \(.*\), expected \(D, C/groups, \*K\) with a window of 1"):
        kernel(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 1, 2, 5), (3, 1, 1, 5), (1, 1, 1, 5), (0, 1, 1, 5), (2, 1, 1, 3, 5)])
def test_positions_that_do_not_fit_are_refused(shape):
    with pytest.raises(ShapeError, match=r"kernel: positions: got shape \(.*\) beside a kernel \(1, 1, 3, 3\), expect"):
        kernel(torch.zeros(1, 1, 3, 3), torch.zeros(shape))

"""`atrous.functional.tf` and the stored results against TensorFlow itself."""

import importlib.util
import json
import warnings
from pathlib import Path

import pytest
import torch

from atrous.functional import tf as ours
from atrous.testing import assert_within_budget

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorFlow's own
    import tensorflow as tf

    path = Path(__file__).with_name("make_tf_fixtures.py")
    spec = importlib.util.spec_from_file_location("make_tf_fixtures", path)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)

IMAGE, SMALLER = (2, 33, 40, 8), (2, 20, 21, 8)
BACK = {"output_shape": (2, 20, 21, 4), "rate": 4, "padding": "SAME"}

# Larger than what is stored: shapes of the tensors, other arguments.
LARGE = [
    ("atrous_conv2d", [IMAGE, (3, 3, 8, 16)], {"rate": 4, "padding": "SAME"}),
    ("atrous_conv2d", [IMAGE, (5, 4, 8, 6)], {"rate": 3, "padding": "VALID"}),
    ("atrous_conv2d_transpose", [SMALLER, (3, 5, 4, 8)], BACK),
    ("convolution", [(2, 101, 8), (7, 8, 4)], {"strides": 5, "padding": "SAME"}),
    ("convolution", [(1, 17, 18, 19, 4), (3, 3, 3, 4, 4)], {"padding": "SAME", "dilations": (2, 3, 4)}),
    ("depthwise_conv2d", [IMAGE, (5, 5, 8, 2)], {"strides": (1, 3, 3, 1), "padding": "SAME"}),
    ("depthwise_conv2d", [IMAGE, (7, 7, 8, 2)], {"strides": (1,) * 4, "padding": "SAME", "dilations": (4, 2)}),
]  # fmt: skip


def theirs(name, leaves, options):
    """Return TensorFlow's result and its gradients, of a sum that weighs every output differently."""
    with tf.GradientTape() as tape:
        variables = [tf.Variable(leaf.detach().numpy()) for leaf in leaves]
        output = maker.FUNCTIONS[name][0](*variables, **options)
        loss = tf.reduce_sum(tf.sin(output))
    return [torch.from_numpy(one.numpy()) for one in (output, *tape.gradient(loss, variables))]


def here(name, leaves, options):
    output = getattr(ours, name)(*leaves, **options)
    return [output.detach(), *torch.autograd.grad(output.sin().sum(), leaves)]


def test_the_stored_results_are_those_of_today():
    stored = json.loads(maker.FILE.read_text(encoding="utf-8"))
    found = json.loads(json.dumps(maker.fixtures()))
    assert stored == {**found, "version": stored["version"]}


@pytest.mark.parametrize(("name", "shapes", "options"), LARGE, ids=[f"{name}-{shapes[0]}" for name, shapes, _ in LARGE])
def test_results_and_gradients(name, shapes, options):
    leaves = [torch.randn(shape, dtype=torch.float64) / 8 for shape in shapes]
    exact = theirs(name, leaves, options)
    single = [leaf.float().requires_grad_() for leaf in leaves]
    columns = here(name, single, options), theirs(name, single, options), exact
    for what, *values in zip(("output", "first gradient", "second gradient"), *columns, strict=True):
        assert_within_budget(*values, what=what)


def test_strides_with_dilations_are_refused_since_tensorflow_mixes_phases():
    """It warns, and strides inside of the phases: pixels 0, 1, 4, 5, 8 of 9 instead of 0, 2, 4, 6, 8."""
    image = torch.arange(9.0).reshape(1, 1, 9, 1).expand(1, 9, 9, 1).contiguous()
    centre = torch.zeros(3, 3, 1, 1)
    centre[1, 1] = 1
    options = {"strides": (1, 2, 2, 1), "padding": "SAME", "dilations": (2, 2)}
    with pytest.warns(UserWarning, match="all values of strides must be 1"):
        found = tf.nn.depthwise_conv2d(image.numpy(), centre.numpy(), **options)
    assert found[0, 0, :, 0].numpy().tolist() == [0, 1, 4, 5, 8]
    with pytest.raises(ValueError, match=r"got strides \(2, 2\) and dilations \(2, 2\), expected one of them to be 1"):
        ours.depthwise_conv2d(image, centre, **options)

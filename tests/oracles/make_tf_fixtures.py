"""Write what TensorFlow makes of small integers, and what it refuses, to tests/functional/tensorflow.json.

    python tests/oracles/make_tf_fixtures.py

`tests/functional/test_tf.py` holds `atrous.functional.tf` to the file, `test_tf.py` here holds the file to TensorFlow.
"""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

FILE = Path(__file__).parents[1] / "functional" / "tensorflow.json"

# name: function, arguments behind the tensors
FUNCTIONS = {
    "atrous_conv2d": (tf.nn.atrous_conv2d, ("rate", "padding")),
    "atrous_conv2d_transpose": (tf.nn.atrous_conv2d_transpose, ("output_shape", "rate", "padding")),
    "batch_to_space_nd": (tf.batch_to_space, ("block_shape", "crops")),
    "convolution": (tf.nn.convolution, ("strides", "padding", "dilations")),
    "depthwise_conv2d": (tf.nn.depthwise_conv2d, ("strides", "padding", "dilations")),
    "space_to_batch_nd": (tf.space_to_batch_nd, ("block_shape", "paddings")),
}

FOUR = [[0, 0], [2, 1], [0, 3], [0, 0]]

# name: (shapes of its tensors, other arguments)
ACCEPTED = {
    "atrous_conv2d": [
        ([(2, 7, 6, 2), (3, 3, 2, 3)], [1, "SAME"]),
        ([(2, 7, 6, 2), (3, 3, 2, 3)], [2, "SAME"]),
        ([(1, 9, 8, 2), (3, 3, 2, 2)], [3, "VALID"]),
        ([(1, 7, 6, 2), (2, 4, 2, 2)], [2, "SAME"]),
        ([(1, 7, 6, 2), (4, 2, 2, 1)], [3, "SAME"]),
        ([(1, 7, 6, 2), (2, 3, 2, 1)], [2, FOUR]),
        ([(1, 7, 6, 4), (3, 3, 2, 2)], [2, "SAME"]),
        ([(1, 5, 5, 1), (3, 3, 1, 1)], [2, "VALID"]),
    ],
    "atrous_conv2d_transpose": [
        ([(2, 5, 4, 2), (3, 3, 3, 2)], [[2, 5, 4, 3], 1, "SAME"]),
        ([(2, 5, 4, 2), (3, 3, 3, 2)], [[2, 5, 4, 3], 2, "SAME"]),
        ([(1, 5, 4, 2), (3, 3, 1, 2)], [[1, 9, 8, 1], 2, "VALID"]),
        ([(1, 5, 4, 2), (2, 4, 1, 2)], [[1, 5, 4, 1], 3, "SAME"]),
        ([(1, 5, 4, 2), (2, 4, 1, 2)], [[1, 8, 13, 1], 3, "VALID"]),
        ([(1, 5, 4, 2), (4, 3, 1, 2)], [[1, 5, 4, 1], 1, "SAME"]),
    ],
    "batch_to_space_nd": [
        ([(12, 2, 3, 2)], [[2, 3], [[0, 0], [0, 0]]]),
        ([(8, 2, 3, 1)], [[2, 2], [[0, 1], [2, 0]]]),
        ([(6, 3)], [[3], [[1, 2]]]),
        ([(6, 2, 2, 3)], [[3], [[0, 1]]]),
        ([(8, 2, 2, 2, 1)], [[2, 1, 2], [[0, 0], [1, 0], [0, 1]]]),
        ([(4, 1, 2, 1)], [[2, 2], [[1, 1], [0, 0]]]),
    ],
    "convolution": [
        ([(2, 9, 2), (3, 2, 3)], [2, "SAME"]),
        ([(1, 9, 2), (4, 2, 1)], [None, "VALID", 2]),
        ([(1, 7, 6, 2), (3, 3, 2, 2)], [2, "SAME"]),
        ([(1, 6, 7, 2), (3, 3, 2, 2)], [[2, 3], "SAME"]),
        ([(1, 6, 8, 2), (2, 5, 2, 2)], [[3, 2], "SAME"]),
        ([(1, 7, 6, 2), (3, 3, 2, 2)], [[1, 2, 2, 1], "VALID"]),
        ([(1, 4, 4, 1), (2, 2, 1, 1)], [3, "SAME"]),
        ([(1, 7, 6, 2), (3, 2, 2, 2)], [None, "SAME", [2, 3]]),
        ([(1, 7, 6, 2), (3, 2, 2, 2)], [None, FOUR, 2]),
        ([(1, 7, 6, 4), (3, 3, 2, 4)], []),
        ([(1, 5, 4, 5, 1), (3, 2, 3, 1, 2)], [None, "SAME", 2]),
        ([(1, 5, 4, 6, 1), (3, 2, 3, 1, 2)], [2, "SAME"]),
    ],
    "depthwise_conv2d": [
        ([(2, 7, 6, 2), (3, 3, 2, 1)], [[1, 1, 1, 1], "SAME"]),
        ([(1, 7, 6, 2), (3, 3, 2, 3)], [[1, 2, 2, 1], "SAME"]),
        ([(1, 6, 8, 3), (2, 4, 3, 2)], [[1, 2, 2, 1], "SAME"]),
        ([(1, 7, 6, 2), (3, 3, 2, 2)], [[1, 1, 1, 1], "VALID", [2, 1]]),
        ([(1, 7, 6, 2), (2, 3, 2, 2)], [[1, 1, 1, 1], "SAME", [3, 2]]),
        ([(1, 7, 6, 2), (3, 3, 2, 2)], [[1, 1, 1, 1], FOUR]),
        ([(1, 7, 6, 2), (3, 3, 2, 2)], [[1, 1, 1, 1], FOUR, [2, 2]]),
    ],
    "space_to_batch_nd": [
        ([(2, 4, 6, 2)], [[2, 3], [[0, 0], [0, 0]]]),
        ([(1, 3, 4, 1)], [[2, 2], [[0, 1], [2, 0]]]),
        ([(2, 5)], [[3], [[1, 0]]]),
        ([(2, 4, 2, 3)], [[2], [[0, 0]]]),
        ([(1, 4, 3, 3, 1)], [[2, 1, 2], [[0, 0], [1, 0], [0, 1]]]),
    ],
}

SMALL, KERNEL = (1, 5, 5, 4), (3, 3, 4, 2)
REFUSED = {
    "atrous_conv2d": [
        ([SMALL, KERNEL], [0, "SAME"]),
        ([SMALL, KERNEL], [-1, "VALID"]),
        ([SMALL, KERNEL], [2, "FULL"]),
        ([SMALL, KERNEL], [2, "same"]),
        ([SMALL, KERNEL], [1, "same"]),
        ([SMALL, KERNEL], [2, [[1, 1], [2, 2]]]),
        ([SMALL, (3, 3, 3, 2)], [2, "SAME"]),
        ([SMALL, (3, 3, 2, 3)], [2, "SAME"]),
        ([(5, 5, 4), KERNEL], [2, "SAME"]),
        ([SMALL, (3, 3, 4)], [2, "SAME"]),
        ([SMALL, KERNEL], [3, "VALID"]),
    ],
    "atrous_conv2d_transpose": [
        ([(1, 5, 5, 2), KERNEL], [[1, 5, 5, 4], 0, "SAME"]),
        ([(1, 5, 5, 2), KERNEL], [[1, 5, 5, 4], 2, "FULL"]),
        ([(1, 5, 5, 2), KERNEL], [[1, 6, 5, 4], 1, "SAME"]),
        ([(1, 5, 5, 2), KERNEL], [[1, 6, 5, 4], 2, "SAME"]),
        ([(1, 5, 5, 2), KERNEL], [[1, 8, 9, 4], 2, "VALID"]),
        ([(1, 5, 5, 2), KERNEL], [[1, 5, 5, 3], 2, "SAME"]),
        ([(1, 5, 5, 3), KERNEL], [[1, 5, 5, 4], 2, "SAME"]),
        ([(1, 5, 5, 2), KERNEL], [[5, 5, 4], 2, "SAME"]),
        ([(1, 5, 5, 2), KERNEL], [[2, 5, 5, 4], 2, "SAME"]),
        ([(5, 5, 2), KERNEL], [[1, 5, 5, 4], 2, "SAME"]),
    ],
    "batch_to_space_nd": [
        ([(12, 2, 2, 1)], [[5, 2], [[0, 0], [0, 0]]]),
        ([(12, 2, 2, 1)], [[0, 2], [[0, 0], [0, 0]]]),
        ([(12, 2, 2, 1)], [[2, 2], [[-1, 1], [0, 0]]]),
        ([(12, 2, 2, 1)], [[2, 2], [[2, 3], [0, 0]]]),
        ([(12, 2, 2, 1)], [[2, 2], [[0, 0]]]),
    ],
    "convolution": [
        ([SMALL, KERNEL], [2, "SAME", 2]),
        ([SMALL, KERNEL], [[2, 1], "SAME", [1, 2]]),
        ([SMALL, KERNEL], [None, "SAME", [0, 1]]),
        ([SMALL, KERNEL], [[0, 1], "SAME"]),
        ([SMALL, KERNEL], [[1, 1, 1], "SAME"]),
        ([SMALL, KERNEL], [None, "SAME", [1, 1, 1]]),
        ([SMALL, KERNEL], [None, "CAUSAL"]),
        ([SMALL, KERNEL], [None, "VALID", 3]),
        ([SMALL, (3, 3, 3, 2)], []),
        ([SMALL, (3, 3, 2, 3)], []),
        ([(5, 5, 4), KERNEL], []),
        ([(1, 3, 3, 3, 3, 1), (1, 1, 1, 1, 1, 1)], []),
    ],
    "depthwise_conv2d": [
        ([SMALL, KERNEL], [[1, 1, 2, 1], "SAME"]),
        ([SMALL, KERNEL], [[2, 1, 1, 1], "SAME"]),
        ([SMALL, KERNEL], [[1, 1, 1, 2], "SAME"]),
        ([SMALL, KERNEL], [[1, 0, 0, 1], "SAME"]),
        ([SMALL, KERNEL], [[1, 1], "SAME"]),
        ([SMALL, KERNEL], [[1, 1, 1, 1], "SAME", [0, 1]]),
        ([SMALL, KERNEL], [[1, 1, 1, 1], "FULL"]),
        ([SMALL, KERNEL], [[1, 1, 1, 1], [[1, 1], [2, 2]]]),
        ([SMALL, (3, 3, 2, 2)], [[1, 1, 1, 1], "SAME"]),
        ([(5, 5, 4), KERNEL], [[1, 1, 1, 1], "SAME"]),
        ([SMALL, (3, 3, 4)], [[1, 1, 1, 1], "SAME"]),
        ([SMALL, KERNEL], [[1, 1, 1, 1], "VALID", [3, 3]]),
    ],
    "space_to_batch_nd": [
        ([(1, 4, 6, 1)], [[2, 2], [[0, 1], [0, 0]]]),
        ([(1, 4, 6, 1)], [[0, 2], [[0, 0], [0, 0]]]),
        ([(1, 4, 6, 1)], [[2, 2], [[-1, 1], [0, 0]]]),
        ([(1, 4, 6, 1)], [[2, 2], [[0, 0]]]),
        ([(1, 4, 6, 1)], [2, [[0, 0], [0, 0]]]),
        ([(1, 4, 6)], [[1, 1, 1], [[0, 0], [0, 0], [0, 0]]]),
    ],
}


def run(function, tensors, options):
    """Return the result of TensorFlow in float64."""
    call, _ = FUNCTIONS[function]
    return call(*(tf.constant(one, tf.float64) for one in tensors), **options).numpy()


def refusal(function, shapes, options):
    """Return the first line of what TensorFlow says against a call; it raises errors of many classes."""
    try:
        run(function, [np.zeros(shape) for shape in shapes], options)
    except Exception as error:
        return str(error).partition("\n")[0].rpartition("}} ")[2].partition(" [Op")[0]
    raise AssertionError(f"TensorFlow accepts {function} of {shapes} with {options}")


def entries(cases):
    """Yield the function of each case, the shapes of its tensors, and its other arguments by name."""
    for function, several in cases.items():
        for shapes, options in several:
            names = zip(FUNCTIONS[function][1], options, strict=False)
            yield function, shapes, {name: value for name, value in names if value is not None}


def fixtures():
    """Return all cases, with results and refusals of today."""
    rng, accepted, refused = np.random.default_rng(0), [], []
    for function, shapes, options in entries(ACCEPTED):
        tensors = [rng.integers(-4, 5, shape).tolist() for shape in shapes]
        result = run(function, tensors, options)
        case = {"function": function, "tensors": tensors, "options": options, "shape": list(result.shape)}
        accepted.append({**case, "result": result.astype(int).ravel().tolist()})
    for function, shapes, options in entries(REFUSED):
        said = refusal(function, shapes, options)
        refused.append({"function": function, "shapes": shapes, "options": options, "tensorflow": said})
    return {"version": tf.__version__, "accepted": accepted, "refused": refused}


if __name__ == "__main__":
    found = fixtures()
    lines = [f'"version": "{found["version"]}"']
    for part in ("accepted", "refused"):
        written = ",\n".join(json.dumps(case, separators=(",", ":")) for case in found[part])
        lines.append(f'"{part}": [\n{written}\n]')
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

"""`atrous.explain` says what runs, by running nothing."""

import copy
import re
from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import atrous
from atrous import BackendError, ShapeError, functional, nn
from atrous._backends import choose

X, W = torch.randn(2, 4, 9, 9), torch.randn(4, 1, 3, 3)
SAME = {"groups": 4, "padding": "same"}
ON_TORCH = "runs on 'aten', because 'cpu' is"
SENTENCES = {
    "a row": ((X, W), SAME, r"runs on 'cpu', because taps are faster for depthwise images \(8x96x56-k7-d4\)"),
    "no batch": ((X[0], W), SAME, "runs on 'cpu', because taps .*"),
    "two backends": (
        (X, torch.randn(32, 4, 3, 3)),
        {},
        r"runs on 'aten' forward and 'cpu' backward, because torch is faster forward and taps backward .* \(3to64-.*\)",
    ),
    "no row": ((X, torch.randn(48, 4, 1, 1)), {}, "runs on 'aten', because no row of the table says otherwise"),
    "a name": ((X, W), {**SAME, "backend": "reference"}, "runs on 'reference', because it was named"),
    "float64": (
        (X.double(), W.double()),
        SAME,
        r"runs on 'cpu', because taps are faster for images .* \(16to16-4x16x56-k3-d1-f64\)",
    ),
    "meta": ((X.to("meta"), W.to("meta")), SAME, f"{ON_TORCH} for floating tensors .*, got torch.float32 on meta"),
    "integers": ((X.long(), W.long()), SAME, "runs on 'reference', because 'aten' is for .*, got torch.int64 tensors"),
    "channels_last": (
        (X.to(memory_format=torch.channels_last), torch.randn(4, 4, 3, 3)),
        {"padding": "same"},
        f"{ON_TORCH} chosen for contiguous tensors, got another memory format",
    ),
}


def says(sentence, text):
    """Return whether `text` is one sentence about one convolution that ends as `sentence`."""
    return re.fullmatch(rf"\w+ of \([\d, ]+\) by \([\d, ]+\) {sentence}\.", text)


@pytest.mark.parametrize(("arguments", "options", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_a_convolution(arguments, options, sentence):
    assert says(sentence, atrous.explain(functional.conv2d, *arguments, **options))


def test_the_shapes_are_those_of_the_call():
    text = atrous.explain(functional.conv2d, X[0], W, **SAME)
    assert text.startswith("conv2d of (1, 4, 9, 9) by (4, 1, 3, 3) runs")


def test_where_the_call_stands_counts(monkeypatch):
    with torch.autocast("cpu", torch.bfloat16):
        text = atrous.explain(functional.conv2d, X, W, **SAME)
    assert says(r"runs on 'cpu', because taps are faster for depthwise images \(8x96x56-k7-d4-bf16\)", text)
    monkeypatch.setattr("atrous._backends.cpu.UNAVAILABLE", "nobody built it; build it")
    text = atrous.explain(functional.conv2d, X, W, **SAME)
    missing = "cannot run: nobody built it; build it"
    assert says(f"runs on 'aten', because 'cpu' {missing}", text)
    text = atrous.explain(functional.tap_conv, X, W.flatten(2), torch.zeros(9, 2).int())
    assert says(f"runs on 'reference', because 'cpu' {missing}", text)


def test_a_transform_takes_one_backend():
    texts = []

    def run(x):
        texts.append(atrous.explain(functional.conv2d, torch.zeros(2, 4, 9, 9), torch.zeros(32, 4, 3, 3)))
        return x

    torch.vmap(run)(torch.zeros(2))
    assert says("runs on 'aten', because .*, and a compiler or a transform takes one backend for both", texts[0])


def test_other_verbs():
    offsets = torch.zeros(9, 2, dtype=torch.int64)
    text = atrous.explain(functional.tap_conv, X, W.flatten(2), offsets, stride=2)
    assert text == (
        "tap_conv of (2, 4, 9, 9) by (4, 1, 9) runs on 'cpu', because it is the first that can run this call."
    )
    text = atrous.explain(functional.dilated_convolve, torch.ones(5), torch.ones(2), 2)
    assert text == "dilated_convolve of (5,) by (2,) runs on 'aten', because it is the first that can run this call."
    assert atrous.explain(functional.reflect_pad, X, 1) == "reflect_pad runs no convolution of atrous."


class Network(torch.nn.Sequential):
    def __init__(self):
        depthwise = nn.Conv2d(4, 4, 3, padding="same", groups=4)
        super().__init__(depthwise, torch.nn.BatchNorm2d(4), torch.nn.Dropout(), nn.Conv2d(4, 64, 3), depthwise)

    def forward(self, input):
        first, norm, drop, last, _ = self
        return last(drop(norm(first(input)) + functional.conv2d(input, W, **SAME)))


def test_a_network_is_read_and_left_alone():
    network = Network()
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    lines = atrous.explain(network, X).split("\n")
    assert [line.partition(", because ")[0] for line in lines] == [
        "conv2d of (2, 4, 9, 9) by (4, 1, 3, 3) runs on 'cpu'",
        "conv2d of (2, 4, 9, 9) by (4, 1, 3, 3) runs on 'cpu'",
        "conv2d of (2, 4, 9, 9) by (64, 4, 3, 3) runs on 'aten' forward and 'cpu' backward",
    ]
    assert atrous.explain(torch.compile(network), X).split("\n") == lines
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert torch.equal(torch.get_rng_state(), random)
    assert atrous.explain(lambda x: network(x)[0], X).split("\n") == lines


def test_a_large_network_costs_no_computation():
    layer = nn.Conv2d(8, 8, 31, groups=8, padding="same", device="meta").to_empty(device="cpu")
    assert says("runs on 'cpu', because taps .*", atrous.explain(layer, torch.empty(1, 8, 4096, 4096)))


def test_a_gpu(monkeypatch):
    monkeypatch.setattr("atrous._backends.triton.UNAVAILABLE", None)
    with FakeTensorMode():
        x, w = torch.empty(2, 4, 9, 9, device="cuda"), torch.empty(4, 1, 3, 3, device="cuda")
        text = atrous.explain(functional.conv2d, x, w, **SAME)
        assert says("runs on 'aten', because nothing was measured on a GPU; atrous.tune does", text)
        text = atrous.explain(functional.conv2d, x, w, **SAME, backend="triton")
        assert says("runs on 'triton', because it was named", text)
        layer = functional.conv2d(x, w, **SAME, backend="triton")
        assert (layer.device.type, layer.shape) == ("cuda", x.shape)
        offsets = torch.empty(9, 2, dtype=torch.int32, device="cuda")
        text = atrous.explain(functional.tap_conv, x, w.flatten(2), offsets, backend="triton")
        assert says("runs on 'triton', because it was named", text)
        assert torch.ops.atrous.tap_conv.default(x, w.flatten(2), offsets, None, (1, 1), (1, 1), (9, 9)).is_cuda
        assert choose("tap_conv", x, w, 2, None) == ("reference", "reference", "it is the first that can run this call")
        with pytest.raises(BackendError, match="conv: backend 'cpu' is for floating tensors of 16 to 64 bits on a CPU"):
            functional.conv2d(x, w, **SAME, backend="cpu")
        monkeypatch.setattr("atrous._backends.triton.UNAVAILABLE", "Triton is missing")
        with pytest.raises(BackendError, match="conv: backend 'triton' cannot run: Triton is missing; leave"):
            functional.conv2d(x, w, **SAME, backend="triton")
    monkeypatch.setattr("atrous._backends.triton.UNAVAILABLE", None)
    with pytest.raises(BackendError, match="'triton' is for floating tensors of 16 to 64 bits on a GPU, got "):
        functional.conv2d(X, W, **SAME, backend="triton")


class _Devices(TorchDispatchMode):
    """Collect where all tensors lie that any operation reads or makes."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        self.seen.update(leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor))
        return result


def test_nothing_comes_from_the_cpu_to_a_gpu(monkeypatch):
    monkeypatch.setattr("atrous._backends.triton.UNAVAILABLE", None)
    with FakeTensorMode():
        x, w = torch.empty(2, 4, 9, 9, device="cuda"), torch.empty(4, 1, 3, 3, device="cuda")
        elements, positions = torch.empty(4, 1, 5, device="cuda"), torch.empty(2, 4, 1, 5, device="cuda")
        with _Devices() as devices:
            functional.conv2d(x, w, **SAME, backend="triton")
            functional.conv_transpose2d(x, w, groups=4, stride=2, backend="triton")
            for scales, interpolation in ((None, "bilinear"), (positions, "gaussian")):
                options = {"dilated_kernel_size": 17, "interpolation": interpolation, **SAME, "backend": "triton"}
                functional.dcls_conv2d(x, elements, positions, scales, **options)
    assert {*devices.seen} == {"cuda"}


def test_what_the_call_raises_is_raised():
    with pytest.raises(ShapeError, match="conv2d: got 3 input channels"):
        atrous.explain(functional.conv2d, X[:, :3], W, groups=4)
    assert says("runs on 'cpu', because .*", atrous.explain(functional.conv2d, X, W, **SAME))


def test_calls_that_look_alike_choose_once(monkeypatch):
    def refuse(*_):
        raise LookupError("chosen anew")

    def conv(x=X, w=W, **options):
        return functional.conv2d(x, w, **{**SAME, **options})

    expected = conv(backend="reference")
    torch.testing.assert_close(conv(), expected)
    monkeypatch.setattr("atrous.functional.conv.choose_conv", refuse)
    for grad in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with grad():
            torch.testing.assert_close(conv(X.clone()), expected)
    w = W.clone().requires_grad_()
    assert torch.autograd.grad(conv(w=w).sum(), w)[0].shape == W.shape
    last = torch.channels_last
    others = [
        lambda: conv(X[:1]),
        lambda: conv(X[0]),
        lambda: conv(X.double(), W.double()),
        lambda: conv(X.to(memory_format=last)),
        lambda: conv(w=W.to(memory_format=last)),
        lambda: conv(bias=torch.zeros(4)),
        lambda: conv(dilation=2),
        lambda: conv(padding="causal"),
        lambda: conv(padding_mode="reflect"),
        lambda: conv(backend="aten"),
        lambda: torch.func.vmap(conv)(X[None]),
        lambda: torch.func.grad(lambda x: conv(x).sum())(X),
        lambda: atrous.explain(functional.conv2d, X, W, **SAME),
    ]
    for other in others:
        with pytest.raises(LookupError, match="chosen anew"):
            other()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(LookupError, match="chosen anew"):
        conv()


@pytest.mark.parametrize("call", [((2, 20, 9, 9), (20, 1, 3, 3), 20), ((2, 3, 9, 9), (32, 3, 3, 3), 1)], ids=str)
def test_the_second_call_does_what_the_first_did(call):
    *shapes, groups = call
    pair = [torch.randn(shape).requires_grad_() for shape in shapes]
    results = []
    for _ in range(2):
        output = functional.conv2d(*pair, padding=1, groups=groups)
        gradients = torch.autograd.grad(output.sum(), pair)
        with torch.inference_mode():
            results.append((output, *gradients, functional.conv2d(*pair, padding=1, groups=groups)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_the_number_of_ready_calls_is_bounded(monkeypatch):
    monkeypatch.setattr("atrous.functional.conv._MOST_READY", 3)
    from atrous.functional import conv

    for size in range(5, 12):
        functional.conv2d(X[..., :size], W, **SAME)
        assert len(conv._ready) <= 3

"""Terms on chosen batch rows of torch modules: `y[rows] == module(W + dW)(x[rows])`, and nothing left behind."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import Conv2d, GroupNorm, LayerNorm, Linear, RMSNorm

from rlg_core.algebra import Delta, Hadamard, Kronecker, LowRank, Placed
from rlg_core.errors import RowsNotSeparable
from rlg_core.rows import Assignment, RowTerms, module_terms
from support import tensors

RANK = 3
random = partial(tensors.random, size=0.5)


def low_rank(out, *rest):
    return LowRank(random(out, RANK), random(RANK, *rest), 1.5)


LAYERS = {
    "linear": (lambda: Linear(8, 12), random(4, 5, 8)),
    "conv": (lambda: Conv2d(8, 12, 3, stride=2, padding=1), random(4, 8, 7, 7)),
    "circular conv": (lambda: Conv2d(8, 12, 3, padding=1, padding_mode="circular"), random(4, 8, 7, 7)),
    "grouped conv": (lambda: Conv2d(8, 12, 3, groups=4), random(4, 8, 7, 7)),
}
TERMS = {
    "low-rank": lambda shape: [Placed("weight", low_rank(*shape))],
    "two low-rank": lambda shape: [Placed("weight", low_rank(*shape)), Placed("weight", low_rank(*shape).scaled(-0.3))],
    "slice of the output": lambda shape: [Placed("weight", low_rank(4, *shape[1:]), (0, 4, 4))],
    "dense": lambda shape: [Placed("weight", Delta(random(*shape), 0.2))],
    "dense slice": lambda shape: [Placed("weight", Delta(random(4, *shape[1:])), (0, 8, 4))],
    "kronecker": lambda shape: [Placed("weight", Kronecker(random(2, 1), random(shape[0] // 2, *shape[1:])))],
    "hadamard": lambda shape: [Placed("weight", Hadamard(low_rank(*shape), low_rank(*shape)))],
    "hadamard of a high rank": lambda shape: [Placed("weight", Hadamard(wide(shape), wide(shape)))],
    "bias": lambda shape: [Placed("bias", Delta(random(shape[0])))],
    "slice of the bias": lambda shape: [Placed("bias", Delta(random(4)), (0, 4, 4))],
    "everything": lambda shape: [placed for name in ("low-rank", "dense", "bias") for placed in TERMS[name](shape)],
}


def wide(shape):
    return LowRank(random(shape[0], 8), random(8, *shape[1:]))


def changed(module: nn.Module, placed: list[Placed]) -> nn.Module:
    """A copy of `module` with the changes merged into its parameters."""
    module = copy.deepcopy(module)
    for change in placed:
        parameter = getattr(module, change.parameter)
        part = parameter.data if change.at is None else parameter.data.narrow(*change.at)
        part += change.term.delta()
    return module


def root_of(module: nn.Module) -> nn.Module:
    root = nn.Module()
    root.layer = module
    return root.requires_grad_(False)


def row_terms(root: nn.Module, experts) -> RowTerms:
    return RowTerms(root, experts, lambda module: isinstance(module, (GroupNorm, LayerNorm, RMSNorm)))


def terms_on(root: nn.Module, *experts: list[Placed]) -> RowTerms:
    """The terms of experts 1, 2, ... on `root.layer`."""
    by_number = enumerate(experts, 1)
    return row_terms(root, {k: {"layer": module_terms(root.layer, placed, torch.float32)} for k, placed in by_number})


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_only_the_rows_of_the_expert_change(layer, terms):
    make, x = LAYERS[layer]
    torch.manual_seed(0)
    root = root_of(make())
    placed = TERMS[terms](tuple(root.layer.weight.shape))
    plain, merged = root.layer(x), changed(root.layer, placed)(x)
    bank = terms_on(root, placed)
    with bank.attached([Assignment(1, 1, 3)], total=4) as call:
        y = root.layer(x)
    assert torch.equal(y[[0, 3]], plain[[0, 3]])
    assert (y[1:3] - merged[1:3]).abs().max() < 1e-5
    assert (merged - plain).abs().max() > 1e-2
    assert call.applied == 1 and call.ran == {"layer"}
    assert torch.equal(root.layer(x), plain)


def test_slice_of_the_input():
    root, x = root_of(Linear(8, 12)), random(2, 8)
    for term in (low_rank(12, 4), Delta(random(12, 4))):
        placed = [Placed("weight", term, (1, 2, 4))]
        with terms_on(root, placed).attached([Assignment(1, 0, 1)], total=2):
            y = root.layer(x)
        assert (y[0] - changed(root.layer, placed)(x)[0]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: LayerNorm(8), random(2, 5, 8)),
        (lambda: GroupNorm(2, 8), random(2, 8, 4, 4)),
        (lambda: RMSNorm(8), random(2, 5, 8)),
    ],
    ids=["layer", "group", "rms"],
)
def test_norms(make, x):
    root = root_of(make())
    placed = [Placed(name, Delta(random(8))) for name, _ in root.layer.named_parameters()]
    plain, merged = root.layer(x), changed(root.layer, placed)(x)
    for assignment in (Assignment(1, 1, 2), Assignment(1, 0, 2)):
        bank = terms_on(root, placed)
        with bank.attached([assignment], total=2) as call:
            y = root.layer(x)
        assert (y[1] - merged[1]).abs().max() < 1e-5
        assert call.applied == 1
    with terms_on(root, placed).attached([Assignment(1, 0, 2, 0.5)], total=2):
        assert (root.layer(x) - (plain + merged) / 2).abs().max() < 1e-5
    assert torch.equal(root.layer(x), plain)


@pytest.mark.parametrize("layer", LAYERS)
def test_factors(layer):
    """The terms of two experts on the same rows, each at its own strength: one number, or one for each row."""
    make, x = LAYERS[layer]
    root = root_of(make())
    shape = tuple(root.layer.weight.shape)
    first, second = TERMS["everything"](shape), TERMS["low-rank"](shape)
    plain, changes = root.layer(x), [changed(root.layer, placed)(x) - root.layer(x) for placed in (first, second)]
    per_row = torch.tensor([0.0, 0.5, -1.0, 2.0])
    with terms_on(root, first, second).attached([Assignment(1, 0, 4, 0.3), Assignment(2, 0, 4, per_row)], total=4):
        y = root.layer(x)
    expected = plain + 0.3 * changes[0] + per_row.reshape(4, *[1] * (x.ndim - 1)) * changes[1]
    assert (y - expected).abs().max() < 1e-5


def test_two_experts_side_by_side():
    root, x = root_of(Linear(8, 12)), random(3, 8)
    first, second = [Placed("weight", low_rank(12, 8))], [Placed("weight", Delta(random(12, 8)))]
    with terms_on(root, first, second).attached([Assignment(2, 0, 1), Assignment(1, 2, 3)], total=3):
        y = root.layer(x)
    assert (y[0] - changed(root.layer, second)(x)[0]).abs().max() < 1e-5
    assert torch.equal(y[1], root.layer(x)[1])
    assert (y[2] - changed(root.layer, first)(x)[2]).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_computes_in_the_dtype_of_the_activations(dtype):
    root, placed = root_of(Linear(8, 12)), [Placed("weight", low_rank(12, 8))]
    x = random(2, 8)
    expected = changed(root.layer, placed)(x)
    root.to(dtype)
    with row_terms(root, {1: {"layer": module_terms(root.layer, placed, dtype)}}).attached([Assignment(1, 0, 2)], 2):
        y = root.layer(x.to(dtype))
    assert y.dtype == dtype
    assert (y.float() - expected).abs().max() < 5e-2


def test_folded_rows_are_refused_unless_all_are_one_experts():
    root, placed = root_of(Linear(8, 12)), [Placed("weight", low_rank(12, 8))]
    x = random(10, 8)
    merged, bank = changed(root.layer, placed)(x), terms_on(root, placed)
    with (
        bank.attached([Assignment(1, 1, 2)], total=2),
        pytest.raises(RowsNotSeparable, match="layer sees 10 rows, expected 2"),
    ):
        root.layer(x)
    with bank.attached([Assignment(1, 0, 2)], total=2):
        assert (root.layer(x) - merged).abs().max() < 1e-5


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_leaves_the_module_as_it_was(error):
    root, placed = root_of(Linear(8, 12)), [Placed("weight", low_rank(12, 8))]

    def use():
        with terms_on(root, placed).attached([Assignment(1, 0, 1)], total=2):
            assert "forward" in root.layer.__dict__
            if error is not None:
                raise error

    if error is None:
        use()
    else:
        with pytest.raises(error):
            use()
    assert "forward" not in root.layer.__dict__
    assert not root.layer._forward_hooks


def test_keeps_the_instance_forward_of_another_pack():
    root, placed, x = root_of(Linear(8, 12)), [Placed("weight", low_rank(12, 8))], random(2, 8)
    plain, merged = root.layer(x), changed(root.layer, placed)(x)
    stranger = root.layer.forward = lambda x: type(root.layer).forward(root.layer, x) + 1
    with terms_on(root, placed).attached([Assignment(1, 0, 1)], total=2):
        y = root.layer(x)
    assert root.layer.__dict__["forward"] is stranger
    assert torch.equal(y[1], plain[1] + 1)
    assert (y[0] - 1 - merged[0]).abs().max() < 1e-5


def test_a_failed_call_does_not_spoil_the_next():
    root, placed = root_of(LayerNorm(8)), [Placed("weight", Delta(random(8)))]
    bank, x = terms_on(root, placed), random(2, 5, 8)
    merged = changed(root.layer, placed)(x)
    for _ in range(2):
        with bank.attached([Assignment(1, 0, 1)], total=2):
            assert (root.layer(x)[0] - merged[0]).abs().max() < 1e-5
            with pytest.raises(RowsNotSeparable):
                root.layer(random(3, 5, 8))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_before_the_terms_came(backend):
    """An instance forward is a guard of compiled code: it recompiles with the terms in, and again without."""
    root, x = root_of(nn.Sequential(Linear(8, 8), LayerNorm(8))), random(2, 8)
    first, norm = [Placed("weight", low_rank(8, 8))], [Placed("weight", Delta(random(8)))]
    compiled = torch.compile(root.layer, backend=backend)
    plain = compiled(x)
    bank = row_terms(
        root,
        {
            1: {
                "layer.0": module_terms(root.layer[0], first, torch.float32),
                "layer.1": module_terms(root.layer[1], norm, torch.float32),
            }
        },
    )
    expected = changed(root.layer[1], norm)(changed(root.layer[0], first)(x))
    for rows in ((0, 1), (0, 2), (1, 2), (0, 1)):
        with bank.attached([Assignment(1, *rows)], total=2) as call:
            y = compiled(x)
        assert (y[rows[0] : rows[1]] - expected[rows[0] : rows[1]]).abs().max() < 1e-5
        assert call.applied == 2
    assert torch.equal(compiled(x), plain)


def test_terms_of_several_dtypes_on_one_layer():
    root, fine, x = root_of(Linear(8, 12)), low_rank(12, 8), random(2, 8)
    coarse = LowRank(fine.up.to(torch.float8_e4m3fn), fine.down.to(torch.float8_e4m3fn), fine.scale)
    plain, once = root.layer(x), changed(root.layer, [Placed("weight", fine)])(x)
    with terms_on(root, [Placed("weight", coarse), Placed("weight", fine)]).attached([Assignment(1, 0, 2)], total=2):
        twice = root.layer(x)
    assert (twice - once - (once - plain)).norm() < 0.2 * (once - plain).norm()


class Shifted(nn.Module):
    """A block that reads a parameter of its own, and one of a norm that it never calls."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(random(1, 4), requires_grad=False)
        self.norm = LayerNorm(4)

    def forward(self, x):
        return (x + self.shift) * self.norm.weight


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_parameters_that_rows_share_are_swapped_for_a_call_of_their_own(factor):
    root, x, delta = root_of(Shifted()), random(2, 4), random(1, 4)
    shift = root.layer.shift
    bank = terms_on(root, [Placed("shift", Delta(delta))])
    with bank.attached([Assignment(1, 0, 2, factor)], total=2) as call:
        assert torch.allclose(root.layer(x), (x + shift + factor * delta) * root.layer.norm.weight)
        assert not call.watched and call.applied == 0
    assert root.layer.shift is shift
    apart = pytest.raises(RowsNotSeparable, match="the parameters of layer are the same for all rows")
    with apart, bank.attached([Assignment(1, 0, 1)], total=2):
        pytest.fail("rows of base and expert would share a parameter")
    assert root.layer.shift is shift


def test_a_norm_that_was_passed_by_can_be_swapped():
    root, x, delta = root_of(Shifted()), random(2, 4), random(4)
    weight = root.layer.norm.weight
    bank = row_terms(
        root, {1: {"layer.norm": module_terms(root.layer.norm, [Placed("weight", Delta(delta))], torch.float32)}}
    )
    everything = [Assignment(1, 0, 2)]
    with bank.attached(everything, total=2) as call:
        root.layer(x)
    assert bank.passed_by(call) == bank.passed_by(call) == ["layer.norm"], "a question must not change the answer"
    bank.swap(bank.passed_by(call))
    with bank.attached(everything, total=2) as call:
        assert torch.allclose(root.layer(x), (x + root.layer.shift) * (weight + delta))
    assert bank.passed_by(call) == [] and root.layer.norm.weight is weight


def test_norms_are_not_blamed_where_no_layer_ran():
    """A cache of another node answered for the whole model."""
    root = root_of(nn.Sequential(Linear(4, 4), LayerNorm(4)))
    layer = module_terms(root.layer[0], [Placed("weight", low_rank(4, 4))], torch.float32)
    norm = module_terms(root.layer[1], [Placed("weight", Delta(random(4)))], torch.float32)
    bank = row_terms(root, {1: {"layer.0": layer, "layer.1": norm}})
    with bank.attached([Assignment(1, 0, 2)], total=2) as call:
        pass
    assert bank.passed_by(call) == []
    with bank.attached([Assignment(1, 0, 2)], total=2) as call:
        root.layer[0](random(2, 4))
    assert bank.passed_by(call) == ["layer.1"]


def test_several_experts_add_up_in_a_swapped_parameter():
    root, first, second = root_of(Shifted()), random(1, 4), random(1, 4)
    bank = terms_on(root, [Placed("shift", Delta(first))], [Placed("shift", Delta(second))])
    with bank.attached([Assignment(1, 0, 2, 2.0), Assignment(2, 0, 2, -1.0)], total=2):
        swapped = root.layer.shift.clone()
    assert torch.allclose(swapped, root.layer.shift + 2 * first - second)

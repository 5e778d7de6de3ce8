import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intraq_cli.quantization import affine
from intraq_cli.quantization.affine import fake_quantize, grid_of_range, grid_of_values, mse_grid

BITS = st.integers(2, 8)
NUMBERS = st.floats(-1e4, 1e4, width=32)


def slow_fake_quantize(value, scale, zero_point, bits):
    q = min(max(round(value / scale) + zero_point, 0), 2**bits - 1)
    return (q - zero_point) * scale


@pytest.fixture(params=[True, False], ids=["numbers", "tensors"])
def bounds(request, monkeypatch):
    """Bounds as numbers, as on a CPU, and as tensors, as on a GPU or when compiled."""
    if not request.param:
        monkeypatch.setattr(affine, "_at_hand", lambda bound: False)


@given(BITS, NUMBERS, NUMBERS, st.lists(NUMBERS, min_size=1, max_size=20))
@settings(deadline=None, max_examples=200)
def test_error_within_the_range_is_at_most_half_a_step_and_zero_is_exact(bits, a, b, values):
    low, high = torch.tensor(min(a, b)), torch.tensor(max(a, b))
    scale, zero_point = grid_of_range(low, high, 2**bits - 1)
    assert scale > 0
    assert zero_point == zero_point.round()
    assert 0 <= zero_point <= 2**bits - 1
    assert fake_quantize(torch.zeros(1), scale, zero_point, 2**bits - 1).item() == 0
    x = torch.tensor(values)
    first = -zero_point * scale
    x = x.clamp(first, first + (2**bits - 1) * scale)
    out = fake_quantize(x, scale, zero_point, 2**bits - 1)
    assert ((out - x).abs() <= 0.5001 * scale + 1e-6 * x.abs()).all()
    assert torch.equal(fake_quantize(out, scale, zero_point, 2**bits - 1), out)  # values on the grid are unchanged


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize("bits", range(2, 9))
def test_fake_quantize_equals_the_formula_for_every_value(bits, random):
    x = torch.randn(200, generator=random)
    scale, zero_point = torch.tensor(0.11), torch.tensor(float(2 ** (bits - 1) - 1))
    expected = [slow_fake_quantize(v, 0.11, int(zero_point), bits) for v in x.tolist()]
    assert torch.allclose(fake_quantize(x, scale, zero_point, 2**bits - 1), torch.tensor(expected), atol=1e-5)


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize("per_channel", [True, False])
def test_fake_quantize_has_the_gradients_of_lsq(per_channel, random):
    x = torch.randn(4, 3, 5, 5, generator=random, dtype=torch.float64, requires_grad=True)
    shape = (4, 1, 1, 1) if per_channel else ()
    scale = (0.2 + 0.1 * torch.rand(shape, generator=random, dtype=torch.float64)).requires_grad_()
    zero_point = torch.full(shape, 3.0, dtype=torch.float64)
    weight = torch.randn(x.shape, generator=random, dtype=torch.float64)
    out = fake_quantize(x, scale, zero_point, 7)
    ours = torch.autograd.grad((out * weight).sum(), (x, scale))

    # LSQ: gradients pass straight through rounding; x gets none beyond the last grid points
    t = (x / scale).detach()
    q = t.round()
    inside = ((q >= -3) & (q <= 4)).double()
    plain = q.clamp(-3, 4) * scale.detach()
    per_value = weight * (q.clamp(-3, 4) - inside * t)
    assert torch.allclose(out, plain)
    assert torch.allclose(ours[0], weight * inside)
    assert torch.allclose(ours[1], per_value.sum((1, 2, 3), keepdim=True) if per_channel else per_value.sum())
    clipped = (plain - x).abs() > 0.51 * scale
    assert clipped.any()
    assert (ours[0][clipped] == 0).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_range_is_no_worse_than_min_max_and_nearly_optimal(bits, random):
    rows = torch.randn(6, 400, generator=random)
    rows[3:] = rows[3:].exp()  # skewed, far outliers
    rows[5].clamp_(min=0.5)  # no zero inside

    def error(scale, zero_point):
        return (fake_quantize(rows, scale[:, None], zero_point[:, None], 2**bits - 1) - rows).square().mean(1)

    found = error(*mse_grid(rows, 2**bits - 1))
    assert (found <= error(*grid_of_range(rows.amin(1), rows.amax(1), 2**bits - 1)) * 1.0001).all()
    best = torch.full((6,), float("inf"))
    for low in torch.linspace(0, 1, 30):
        for high in torch.linspace(0.02, 1, 50):
            best = torch.minimum(best, error(*grid_of_range(low * rows.amin(1), high * rows.amax(1), 2**bits - 1)))
    assert (found <= 1.05 * best).all()


def test_mse_range_minimises_the_error_weighted_by_importance(random):
    rows, importance = torch.randn(4, 300, generator=random), 10 * torch.rand(4, 300, generator=random) ** 4

    def error(scale, zero_point):
        out = fake_quantize(rows, scale[:, None], zero_point[:, None], 7)
        return ((out - rows).square() * importance).mean(1)

    found, plain = error(*mse_grid(rows, 7, importance=importance)), error(*mse_grid(rows, 7))
    assert (found <= plain * 1.02).all()
    assert found.sum() < plain.sum()
    assert torch.equal(mse_grid(rows, 7, importance=torch.ones_like(rows))[0], mse_grid(rows, 7)[0])


def test_rows_of_zeros_and_tiny_values_get_a_usable_scale():
    rows = torch.zeros(3, 10)
    rows[1] = 1e-38
    rows[2, 0] = -5.0
    scale, zero_point = mse_grid(rows, 15)
    assert (scale > 0).all()
    out = fake_quantize(rows, scale[:, None], zero_point[:, None], 15)
    assert out.isfinite().all()
    assert (out[0] == 0).all()
    assert out[2, 0].item() == pytest.approx(-5.0)


@pytest.mark.parametrize("shape", [(64, 16, 32, 32), (32, 64, 64, 8), (16, 197, 768)])
def test_grid_is_fitted_to_a_sample_of_every_column_and_channel(shape):
    """A column a hundred times larger than the others has the same effect wherever it is."""
    scales = []
    for place in (0, 1, shape[-1] - 1):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 0.01
        x[..., place] += 1
        scales.append(float(grid_of_values(x, 15)[0]))
    assert max(scales) < 1.05 * min(scales)

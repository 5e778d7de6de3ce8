import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intraq_cli.quantization.affine import fake_quantize, grid_of_range, mse_grid
from intraq_cli.quantization.network import dequantize
from intraq_cli.quantization.packing import pack, unpack
from intraq_cli.quantization.quantizers import WeightQuantizer
from intraq_cli.recipe import Quantization

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 5)) | st.tuples(*[st.integers(1, 4)] * 4)


@given(
    st.integers(2, 8),
    SHAPES,
    st.sampled_from(["mse", "minmax"]),
    st.sampled_from([("nearest", "learned"), ("squant", "learned"), ("nearest", "recomputed")]),
    st.floats(-6, 6),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=150)
def test_quantized_weight_is_restored_exactly_from_its_codes(bits, shape, weight_range, how, magnitude, seed):
    rounding, scales = how
    generator = torch.Generator().manual_seed(seed)
    weight = 10**magnitude * torch.randn(shape, generator=generator)
    config = Quantization(weight_range=weight_range, weight_rounding=rounding, weight_scale=scales)
    quantizer = WeightQuantizer(weight, bits, config)
    scale, zero_point = (t.detach() for t in quantizer.grid())
    quantized = quantizer().detach()
    per_row = (-1,) + (1,) * (len(shape) - 1)
    codes = (quantized / scale.view(per_row)).round() + zero_point.view(per_row)
    assert codes.min() >= 0
    assert codes.max() <= 2**bits - 1
    packed = pack(codes.to(torch.uint8).flatten(1), bits)
    assert torch.equal(dequantize(unpack(packed, bits, weight[0].numel()).view(shape), scale, zero_point), quantized)
    if rounding == "nearest" and weight_range == "minmax":
        assert ((quantized - weight).abs() <= 0.501 * scale.view(per_row) + 1e-5 * weight.abs()).all()


@given(st.integers(2, 8), st.integers(1, 5), st.integers(1, 30), st.floats(-20, 20), st.integers(0, 2**31))
@settings(deadline=None, max_examples=100)
def test_fake_quantize_leaves_values_on_the_grid_unchanged(bits, rows, n, magnitude, seed):
    x = 10**magnitude * torch.randn(rows, n, generator=torch.Generator().manual_seed(seed))
    top = 2**bits - 1
    for scale, zero_point in (mse_grid(x, top), grid_of_range(x.amin(1), x.amax(1), top)):
        assert (scale > 0).all()
        assert scale.isfinite().all()
        once = fake_quantize(x, scale[:, None], zero_point[:, None], top)
        assert torch.equal(fake_quantize(once, scale[:, None], zero_point[:, None], top), once)
        assert all(len(row.unique()) <= 2**bits for row in once)

"""A fixed sample of timm's architectures, end to end; the whole run is `python zoo/coverage.py`."""

import pytest

from zoo import coverage

SAMPLE = ["test_efficientnet"]
MORE = [
    "test_byobnet",
    "tf_mobilenetv3_small_minimal_100",  # depthwise, "same" padding
    "ese_vovnet19b_slim_dw",  # BatchNormAct2d
    "mobileone_s0",  # branches that re-parametrise, a strided 1x1 convolution of the image
    "efficientnet_cc_b0_4e",  # weights computed from the input
    "lambda_resnet26t",  # 3-D convolutions
    "mobilevitv2_050",  # attention by convolutions
    "levit_128s",  # attention, one input size
    "tiny_vit_5m_224",  # attention biases kept from call to call
    *("eca_botnext26ts_256", "ghostnetv2_100", "densenet121", "halonet26t", "inception_v4", "dla34", "mixnet_s"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*SAMPLE, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_architecture_works_end_to_end(name):
    row = coverage.cover(name)
    assert (row["inputs"], row["activations"]) == ("works", "works")

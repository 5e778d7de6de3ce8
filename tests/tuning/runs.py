"""What a tuning of the small network needs: images with labels, and a calibrated student."""

import torch

from intraq_cli.quantization.calibration import calibrate
from intraq_cli.recipe import Quantization
from tests.conftest import student_of


def images_and_labels(n=48):
    generator = torch.Generator().manual_seed(11)
    return torch.randn(n, 3, 8, 8, generator=generator), torch.randint(4, (n,), generator=generator)


def default_student(graph, images, bits=3, config=None, placement="activations"):
    student = student_of(graph, bits, bits, placement)
    calibrate(student, graph, images, config or Quantization())
    return student

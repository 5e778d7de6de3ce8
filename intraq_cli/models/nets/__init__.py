"""This package's own architectures, which timm lacks; a checkpoint's config names them by these keys."""

from intraq_cli.models.nets.cifar_resnet import CifarResNet

ARCHITECTURES = {"cifar_resnet": CifarResNet}

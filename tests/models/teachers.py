"""Float networks, loaded as MODEL names them."""

from intraq_cli.models.input_options import InputOverride
from intraq_cli.models.source import Source


def load_teacher(model, override=None, **given):
    return Source.parse(model, override, **given).load()


INPUT = InputOverride((3, 8, 8), (0.5,) * 3, (0.25,) * 3)

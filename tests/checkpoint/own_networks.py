"""The code of networks that compute their weights, hold unusual tensors, or call a layer twice."""

from tests.conftest import FACTORY

NETS = (
    FACTORY
    + """
import torch.nn.utils as old
from torch.nn.utils import parametrizations, prune

def pruned():
    made = net()
    prune.l1_unstructured(made.conv, "weight", 0.5)
    prune.random_structured(made.fc, "weight", 1, dim=0)
    return made

def weight_normed():
    made = net()
    parametrizations.weight_norm(made.conv)
    parametrizations.weight_norm(made.fc, dim=1)
    return made

def spectral_normed():
    made = net()
    parametrizations.spectral_norm(made.conv)
    parametrizations.spectral_norm(made.fc)
    return made

def spectral_normed_by_hooks():
    made = net()
    old.spectral_norm(made.conv)
    old.spectral_norm(made.fc)
    return made

class Extra(Net):
    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        assert state == {"steps": 3}

class Unused(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("rotation", torch.randn(4, dtype=torch.complex64))

class Recurrent(Net):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x))).flatten(2).transpose(1, 2)
        return self.fc(self.lstm(x)[0][:, -1])

def recurrent():
    return Recurrent()

class Filtered(Net):
    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(8, 8, 5, dtype=torch.complex64))

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = torch.fft.irfft2(torch.fft.rfft2(x) * self.filter, s=x.shape[-2:]).float()
        return self.fc(x.mean((2, 3)) + x.amax((2, 3)))

class Layouts(Net):
    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = x * 1.0 if x.is_contiguous() else x + 0.0
        return self.fc(x.mean(dim=(2, 3)))

class Twice(Net):
    def __init__(self):
        super().__init__()
        self.mid = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = torch.relu(self.mid(x))
        return self.fc(torch.relu(self.mid(x)).mean((2, 3)))

def settled(made):
    made.train()
    made(torch.randn(64, 3, 8, 8))
    return made

def complex128():
    made = Filtered()
    made.filter = nn.Parameter(made.filter.to(torch.complex128))
    return made

class Tied(Net):
    # its first weight is read once more, beside the layer whose batch norm is folded
    def forward(self, x):
        return super().forward(x) + 0.1 * self.conv.weight.abs().mean()

def tied():
    return settled(Tied())

class Scaled(nn.Conv2d):
    # parameters that are called as what a checkpoint stores of a quantized weight and of its input
    def __init__(self):
        super().__init__(3, 8, 3, 1, 1, bias=False)
        self.weight_scale = nn.Parameter(torch.linspace(0.5, 2, 8).view(8, 1))
        self.weight_scale_float = nn.Parameter(torch.tensor(1.5))
        self.weight_shape = nn.Parameter(torch.tensor([2.0]))
        self.input_scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        made = super().forward(x * self.input_scale) * self.weight_scale[:, :, None]
        return made * self.weight_scale_float * self.weight_shape

def scaled():
    made = net()
    made.conv = Scaled()
    return settled(made)

class Scored(Net):
    # a linear layer whose input is no image: it stays float
    def __init__(self):
        super().__init__()
        self.register_buffer("places", torch.randn(15, 64))
        self.score = nn.Linear(64, 1)

    def forward(self, x):
        return super().forward(x) * self.score(self.places)[:3, 0]

def seeded(kind):
    def made():
        torch.manual_seed(0)
        return settled(kind())
    return made

layouts, extra, unused, filtered = map(seeded, (Layouts, Extra, Unused, Filtered))
twice, scored = map(seeded, (Twice, Scored))
"""
)

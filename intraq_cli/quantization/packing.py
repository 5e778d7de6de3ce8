"""Dense packing of b-bit codes into 32-bit words, as in the compressed-tensors format (``pack-quantized``).

Code i of a row takes bits ``i b ... i b + b - 1`` of the row's words, least significant first, across word boundaries;
each row is padded to a word boundary. Zero-points are packed the same way along their column.
"""

import torch
from torch import Tensor


def packed_words(count: int, bits: int) -> int:
    """Return the number of 32-bit words that ``count`` codes take."""
    return -(-count * bits // 32)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack ``(R, n)`` uint8 codes below ``2^bits`` into ``(R, ceil(n bits / 32))`` int32."""
    rows, n = codes.shape
    shifts = torch.arange(bits, dtype=torch.uint8, device=codes.device)
    stream = ((codes[:, :, None] >> shifts) & 1).reshape(rows, n * bits)
    stream = torch.nn.functional.pad(stream, (0, packed_words(n, bits) * 32 - n * bits))
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=codes.device)
    as_bytes = (stream.view(rows, -1, 8) * weights).sum(2, dtype=torch.uint8)
    return as_bytes.view(torch.int32)


def unpack(words: Tensor, bits: int, n: int) -> Tensor:
    """Invert :func:`pack`: returns ``(R, n)`` uint8."""
    rows = len(words)
    shifts = torch.arange(8, dtype=torch.uint8, device=words.device)
    stream = (words.contiguous().view(torch.uint8)[:, :, None] >> shifts) & 1
    stream = stream.view(rows, -1)[:, : n * bits].reshape(rows, n, bits)
    weights = 2 ** torch.arange(bits, dtype=torch.uint8, device=words.device)
    return (stream * weights).sum(2, dtype=torch.uint8)

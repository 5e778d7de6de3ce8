import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intraq_cli.quantization.packing import pack, packed_words, unpack


@given(st.integers(2, 8), st.integers(1, 9), st.integers(1, 70), st.integers(0, 2**31))
@settings(deadline=None, max_examples=200)
def test_packed_codes_unpack_unchanged(bits, rows, n, seed):
    codes = torch.randint(2**bits, (rows, n), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    words = pack(codes, bits)
    assert words.dtype == torch.int32
    assert words.shape == (rows, -(-n * bits // 32))
    assert torch.equal(unpack(words, bits, n), codes)


@given(st.integers(2, 8), st.integers(1, 40), st.integers(0, 2**31))
@settings(deadline=None, max_examples=100)
def test_any_words_unpack_to_codes_of_the_given_width(bits, n, seed):
    shape = (3, packed_words(n, bits))
    words = torch.randint(-(2**31), 2**31, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int32)
    codes = unpack(words, bits, n)
    assert codes.shape == (3, n)
    assert int(codes.max()) < 2**bits
    assert torch.equal(unpack(pack(codes, bits), bits, n), codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_bits_equal_those_of_a_big_integer(bits):
    """Code i of a row takes bits i b to i b + b - 1, least significant first."""
    codes = torch.randint(2**bits, (1, 37), generator=torch.Generator().manual_seed(bits), dtype=torch.uint8)
    stream = sum(code << (i * bits) for i, code in enumerate(codes[0].tolist()))
    words = [(stream >> (32 * k)) & 0xFFFFFFFF for k in range(packed_words(37, bits))]
    assert [w % 2**32 for w in pack(codes, bits)[0].tolist()] == words


def test_transposed_codes_are_packed_like_contiguous_ones(random):
    codes = torch.randint(2**5, (7, 12), generator=random, dtype=torch.uint8)
    assert torch.equal(pack(codes.mT.contiguous().mT, 5), pack(codes, 5))

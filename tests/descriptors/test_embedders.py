"""The embedding of an image does not depend on the rest of its batch."""

import pytest
import torch

from utils.descriptors.embedders import load_metric


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_the_same_bits_whatever_the_other_images(threads):
    """A cache holds blocks that other jobs, with other batches, have begun."""
    alex = load_metric("alex", None, "cpu")
    images = torch.rand(13, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = alex(images)
    assert whole.shape == (13, alex.dim(images))
    for count in range(1, len(images)):
        for first in {0, 1, len(images) - count}:
            assert torch.equal(alex(images[first : first + count]), whole[first : first + count])

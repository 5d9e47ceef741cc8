"""On a GPU: speed and peak memory beside torch's foreach AdamW, at the paper's shapes."""

import statistics
import time

import pytest
import torch
from torch import nn

from frugalbo.optim import LLAMA, Frugal, measure_state_bytes, predict_state_bytes

ROUNDS = 5


def groups(device):
    llama = LLAMA["60M"]

    def parameter(shape):
        param = nn.Parameter(torch.full(shape, 0.02, device=device))
        param.grad = torch.full(shape, 1e-3, device=device)
        return param

    return [
        {"params": [parameter(shape) for shape in llama.projectable], "projectable": True},
        {"params": [parameter(shape) for shape in llama.regular], "projectable": False},
    ]


def timed(optimizer):
    torch.cuda.synchronize()
    start = time.perf_counter()
    optimizer.step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


CASES = [
    # 1.2 at most, and faster than AdamW for blockwise at a quarter.
    ({"projection": "blockwise", "density": 0.25}, 1.0),
    ({"projection": "columns", "density": 0.25}, 1.2),
    ({"projection": "rows", "density": 0.25}, 1.2),
    ({"projection": "randk", "density": 0.25}, 1.2),
    ({"density": 0.0}, 1.0),
    ({"density": 1.0}, 1.2),
]


IDS = [str(options) for options, _ in CASES]
BARS = [(name, bar) for name, (_, bar) in zip(IDS, CASES, strict=True)]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def gpu_ratios():
    """Return each case's median ratio of a step to AdamW's, over interleaved rounds after two to warm up."""
    shared = groups("cuda")
    adamw = torch.optim.AdamW([p for g in shared for p in g["params"]], foreach=True, weight_decay=0.0)
    frugals = [Frugal(shared, **options) for options, _ in CASES]
    rounds = [[timed(optimizer) for optimizer in (adamw, *frugals)] for _ in range(2 + ROUNDS)][2:]
    cases = range(1, 1 + len(CASES))
    medians = [statistics.median(times[case] / times[0] for times in rounds) for case in cases]
    return dict(zip(IDS, medians, strict=True))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("case", "bar"), BARS)
def test_a_step_on_a_gpu_stays_below_its_bar(gpu_ratios, case, bar):
    assert gpu_ratios[case] < bar


@pytest.mark.gpu
@needs_cuda
def test_peak_memory_on_a_gpu_is_below_adamws_and_what_was_predicted():
    def peak(make):
        shared = groups("cuda")
        optimizer = make(shared)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            optimizer.step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, optimizer

    frugal_peak, frugal = peak(Frugal)
    predicted = predict_state_bytes(frugal, draw=0)
    assert measure_state_bytes(frugal) == predicted
    # Beside the state: temporaries of one piece (2^24 float32 entries) of which two may live at once.
    assert frugal_peak <= predicted.total + 2 * 4 * 2**24 + 2**20
    del frugal
    adamw_peak, _ = peak(lambda shared: torch.optim.AdamW([p for g in shared for p in g["params"]], foreach=True))
    assert frugal_peak < 0.8 * adamw_peak


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("projection", ["blockwise", "columns", "rows"])
def test_a_gpu_takes_the_steps_that_a_cpu_takes(projection):
    results = []
    for device in ("cpu", "cuda"):
        params = [nn.Parameter(torch.ones(m, n, device=device)) for m, n in [(7, 5), (5, 11), (13, 7), (3, 2)]]
        optimizer = Frugal([{"params": params, "projectable": True}], projection=projection, density=0.5, update_gap=2)
        for t in range(5):
            stream = torch.Generator().manual_seed(t)
            for param in params:
                param.grad = torch.randn(param.shape, generator=stream).to(device)
            optimizer.step()
        results.append([param.detach().cpu() for param in params])
    torch.testing.assert_close(*results)

"""Processes that claim GPUs at once (no GPU is needed: a claim is a locked file), and precisions."""

from __future__ import annotations

import multiprocessing
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from biva import devices
from biva.config import Precision
from biva.devices import _one_gpu, choose_device, claim, computing_in, find_precision
from biva.errors import UserError
from biva.models.architectures import ModelName
from biva.models.hierarchical_vae import Terms
from tests.models import MODELS, tiny_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else has claims here."""
    monkeypatch.setattr(devices, "CLAIMS", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc is left as it is")
def test_the_memory_of_large_tensors_serves_the_next_ones() -> None:
    """Twenty tensors of 64 MiB, one after the other: the kernel hands over the pages of few of them, not of each."""
    code = """if True:
        import resource, torch
        from biva.devices import use_threads
        use_threads(1)
        for _ in range(20):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(2**24)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *others = map(int, ran.stdout.split())
    assert first > 1000
    assert sum(others) < len(others) * first / 2


def claimed() -> tuple[str, Any]:
    """The GPU that a claim leaves, and the claim."""
    kept = claim(["0", "1", "GPU-a1"])
    return os.environ["CUDA_VISIBLE_DEVICES"], kept


def test_claims_are_spread_evenly() -> None:
    """The first three have a GPU of their own, the next two a second place on one."""
    kept = [claimed() for _ in range(5)]
    assert [gpu for gpu, _ in kept] == ["0", "1", "GPU-a1", "0", "1"]


def test_the_gpu_of_a_killed_process_is_free_again() -> None:
    processes = multiprocessing.get_context("fork")
    ours, theirs = processes.Pipe()

    def hold() -> None:
        gpu, _kept = claimed()
        theirs.send(gpu)
        time.sleep(600)

    child = processes.Process(target=hold)
    child.start()
    assert ours.recv() == "0"
    assert claimed()[0] == "1"
    child.kill()
    child.join()
    assert claimed()[0] == "0"


@pytest.mark.parametrize(
    ("variables", "device", "left"),
    [
        ({"CUDA_VISIBLE_DEVICES": "4,7"}, "auto", "4"),
        ({"CUDA_VISIBLE_DEVICES": "4,7"}, "cpu", "4,7"),
        ({"CUDA_VISIBLE_DEVICES": "4,7", "LOCAL_RANK": "1"}, "auto", "4,7"),
        ({"CUDA_VISIBLE_DEVICES": "7"}, "auto", "7"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "auto", ""),
    ],
)
def test_a_run_on_gpus_claims_one_of_several(
    variables: dict[str, str], device: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    _one_gpu.cache_clear()
    choose_device(device)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left
    _one_gpu.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_that_is_not_there() -> None:
    assert choose_device("auto") == CPU
    with pytest.raises(UserError, match="finds no CUDA device"):
        choose_device("cuda")


def tf32() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_convolutions_and_products_compute_in_the_precision(precision: Precision, dtype: torch.dtype) -> None:
    before = tf32()
    with computing_in(precision, CPU):
        assert F.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1)).dtype == dtype
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype
        assert tf32() == (False, False)
    assert tf32() == before
    assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_tf32_is_set_within_and_put_back_after_an_error() -> None:
    before, seen = tf32(), []

    def fail() -> None:
        seen.append(tf32())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), computing_in("tf32", CUDA):
        fail()
    assert seen == [(True, True)]
    assert tf32() == before


def test_a_precision_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="tf32 is a mode of NVIDIA GPUs"), computing_in("tf32", CPU):
        pass
    with pytest.raises(UserError, match="no precision 'fp8'"):
        find_precision("fp8")
    assert find_precision("bf16") == "bf16"


@pytest.mark.parametrize("latents", ["dense", "convolutional"])
@pytest.mark.parametrize("model", MODELS)
def test_distributions_stay_float32_and_bf16_is_near(model: ModelName, latents: str) -> None:
    built = tiny_model(model, latents=latents).float()
    x = torch.randint(0, 2, (6, 1, 4, 4), generator=torch.Generator().manual_seed(1)).float()

    def terms(precision: Precision) -> Terms:
        generator = torch.Generator().manual_seed(2)
        with computing_in(precision, CPU), torch.no_grad():
            return built.forward(x, lambda _name, shape: torch.randn(shape, generator=generator))

    exact, rough = terms("fp32"), terms("bf16")
    assert rough.log_likelihood.dtype == rough.kl.dtype == rough.walk.output.dtype == torch.float32
    for step in rough.walk.steps.values():
        assert step.posterior is not None
        assert step.value.dtype == step.prior.mean.dtype == step.posterior.log_variance.dtype == torch.float32
    # bfloat16 has 8 bits: a relative error of 2^-9 per rounding, over a few layers
    torch.testing.assert_close(rough.log_likelihood, exact.log_likelihood, rtol=0.05, atol=0.1)
    assert not torch.equal(rough.log_likelihood, exact.log_likelihood)

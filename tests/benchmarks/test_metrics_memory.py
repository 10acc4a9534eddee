"""Peak memory of MLS for 1,000 classes against one training step, each in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import torch
from flatscale.models import allow_torchvision_without_ops
allow_torchvision_without_ops()
import timm
from flatscale.metrics import measure
torch.manual_seed(0)
torch.set_num_threads(1)
model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
x, y = torch.rand(8, 3, 224, 224), torch.arange(8)
def kib(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))
# getrusage's peak would be that of the process this one was forked from
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = kib("VmRSS")
if sys.argv[1] == "train":
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
else:
    assert measure(model, (x, y), ["mls"])["mls"].converged
print(json.dumps((kib("VmHWM") - before) / 1024))
"""


def peak_mib(what: str) -> float:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, what]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.benchmark(group="peak memory, MLS of vit_tiny_patch16_224, 8 images")
def test_peak_memory_of_mls_is_at_most_three_training_steps(benchmark):
    training = peak_mib("train")
    measuring = benchmark.pedantic(peak_mib, ("measure",), rounds=1)
    benchmark.extra_info["training step MiB"] = round(training)
    benchmark.extra_info["mls MiB"] = round(measuring)
    print(f"\npeak memory: training step {training:.0f} MiB, MLS {measuring:.0f} MiB")
    assert training > 0
    assert measuring <= 3 * training

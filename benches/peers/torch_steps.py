"""Optimizer steps, eigendecompositions, Cholesky factors and products in PyTorch and pytorch-optimizer, on the workloads of the bench `versus`.

    pip install torch pytorch-optimizer ; python torch_steps.py [PART..]     with parts of the workloads' names

PEERS_DEVICE is cpu or cuda (default: cuda if there is one), PEERS_THREADS the CPU's threads. Lines in tabs: `time`, who, workload, median, minimum,
repetitions; microseconds for one run. Gradients are given, there is no forward and no backward pass; four sets of them take turns."""
import importlib.metadata
import itertools
import sys
import warnings

import torch

from clock import DEVICE, about, measure

warnings.filterwarnings("ignore")
torch.manual_seed(1)
parts = sys.argv[1:]

LISTS = {
    "mlp": [(128, 784), (128, 128), (10, 128)],
    "8x(512x512)": [(512, 512)] * 8,
    "64x(64x64)": [(64, 64)] * 64,
    "4x(1024x256)": [(1024, 256)] * 4,
}
if DEVICE == "cuda":
    LISTS["4x(2048x2048)"] = [(2048, 2048)] * 4

# Workload; who; steps in a run; the optimizer.
METHODS = [
    ("sgd", "torch", 1, lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9)),
    ("sgd", "torch fused", 1, lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, fused=True)),
    ("adamw", "torch", 1, lambda p: torch.optim.AdamW(p, 1e-3)),
    ("adamw", "torch fused", 1, lambda p: torch.optim.AdamW(p, 1e-3, fused=True)),
    ("muon", "torch", 1, lambda p: torch.optim.Muon(p, 1e-3)),
]
try:
    import pytorch_optimizer as po

    scalable = dict(start_preconditioning_step=1)
    METHODS += [
        ("soap every step", "pytorch-optimizer", 1, lambda p: po.SOAP(p, 1e-3, precondition_frequency=1)),
        ("soap every 10", "pytorch-optimizer", 10, lambda p: po.SOAP(p, 1e-3, precondition_frequency=10)),
        ("shampoo every step", "pytorch-optimizer", 1, lambda p: po.Shampoo(p, 1e-3, preconditioning_compute_steps=1)),
        ("shampoo grafted every step", "pytorch-optimizer", 1, lambda p: po.ScalableShampoo(p, 1e-3, preconditioning_compute_steps=1, **scalable)),
        ("shampoo grafted every 10", "pytorch-optimizer", 10, lambda p: po.ScalableShampoo(p, 1e-3, preconditioning_compute_steps=10, **scalable)),
    ]
    print(f"info\tpytorch-optimizer\tversion\tpytorch-optimizer {importlib.metadata.version('pytorch_optimizer')}")
except ImportError:
    print("info\tpytorch-optimizer\tversion\tnot installed")


def wanted(name):
    return not parts or any(part in name for part in parts)


def step(name, who, shapes, cycle, make):
    weights = [torch.nn.Parameter(torch.randn(s, device=DEVICE) * 0.1) for s in shapes]
    sets = [[torch.randn(s, device=DEVICE) for s in shapes] for _ in range(4)]
    for w in weights:
        w.grad = torch.zeros_like(w)
    optimizer, turn = make(weights), itertools.count()

    def renew():
        for w, g in zip(weights, sets[next(turn) % 4]):
            w.grad.copy_(g)

    def run():
        for _ in range(cycle):
            optimizer.step()

    measure(who, name, run, 1 / cycle, renew)


def positive_definite(batch, n):
    """Eigenvalues log-spaced from 1 to 1e-4, turned by a few random reflections."""
    a = torch.diag(torch.logspace(0, -4, n, dtype=torch.float64)).repeat(batch, 1, 1)
    for _ in range(8):
        v = torch.rand(batch, n, 1, dtype=torch.float64) * 2 - 1
        v = v / v.norm(dim=1, keepdim=True)
        a = a - 2 * v @ (v.mT @ a)
        a = a - 2 * (a @ v) @ v.mT
    return ((a + a.mT) / 2).float().to(DEVICE)


about()
for batch, n in [(1, 256), (1, 512), (1, 1024), (64, 64)]:
    if wanted(name := f"gemm {batch}x({n}x{n}x{n})"):
        a, b = (torch.rand(batch, n, n, device=DEVICE) * 2 - 1 for _ in range(2))
        measure("torch", name, lambda: a @ b)
for batch, n in [(64, 64), (16, 128), (1, 512)]:
    for op, call in [("eigh", torch.linalg.eigh), ("cholesky", torch.linalg.cholesky)]:
        if wanted(name := f"{op} {batch}x({n}x{n})"):
            a = positive_definite(batch, n)
            measure("torch", name, lambda: call(a))
for layers, shapes in LISTS.items():
    for method, who, cycle, make in METHODS:
        if wanted(name := f"step {layers} {method}"):
            try:
                step(name, who, shapes, cycle, make)
            except Exception as error:  # A method that a version lacks or refuses is reported, and the others still run.
                print(f"info\t{who}\tfailed\t{name}: {type(error).__name__} {str(error)[:100]}", flush=True)

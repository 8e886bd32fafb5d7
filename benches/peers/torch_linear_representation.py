"""The study's KFAC iteration in PyTorch, float32, every trial with data of its own, drawn anew at each iteration.

    pip install torch ; python torch_linear_representation.py [TRIALS]

Two forms: `torch loop` runs one trial after another, as a user writes it; `torch batched` all at once as batched products, as an expert writes it. Lines as in
`torch_steps.py`; microseconds for one trial and iteration. No metrics are logged."""
import sys

import torch

from clock import DEVICE, about, measure

torch.manual_seed(1)
TRIALS = int(sys.argv[1]) if len(sys.argv) > 1 else 16
D_X, D_Y, K, N, NOISE, RATE = 100, 15, 8, 1024, 0.1, 1e-2
EYE_X, EYE_K = torch.eye(D_X, device=DEVICE), torch.eye(K, device=DEVICE)


def random(*shape):
    return torch.randn(*shape, device=DEVICE)


def orthonormal(b, rows):
    return torch.linalg.qr(random(b, D_X, rows))[0]


class Trials:
    """Teacher, covariance of condition 1000, and weights of `b` trials."""

    def __init__(self, b):
        q, spectrum = orthonormal(b, D_X), torch.logspace(0, -3, D_X, device=DEVICE)
        self.root = (q * (spectrum * D_X / spectrum.sum()).sqrt()) @ q.mT
        self.teacher = random(b, D_Y, K) @ orthonormal(b, K).mT
        self.f, self.g = random(b, D_Y, K) / K**0.5, orthonormal(b, K).mT

    def step(self):
        f, g, b = self.f, self.g, self.g.shape[0]
        x = (torch.randint(0, 2, (b, N, D_X), device=DEVICE, dtype=torch.float32) * 2 - 1) @ self.root
        y = x @ self.teacher.mT + NOISE * random(b, N, D_Y)
        residual = x @ g.mT @ f.mT - y
        gradient = f.mT @ (residual.mT @ x) / N
        covariance = x.mT @ x / N + 1e-8 * EYE_X
        g = g - RATE * torch.linalg.solve(f.mT @ f + 1e-6 * EYE_K, gradient) @ torch.linalg.inv(covariance)
        z = x @ g.mT
        gradient = (z @ f.mT - y).mT @ z / N
        self.f, self.g = f - RATE * gradient @ torch.linalg.inv(z.mT @ z / N + 1e-6 * EYE_K), g


about()
measure("torch loop", "study kfac", Trials(1).step)
measure("torch batched", "study kfac", Trials(TRIALS).step, 1 / TRIALS)

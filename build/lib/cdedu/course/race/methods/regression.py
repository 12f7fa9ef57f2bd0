"""Regression: noise and the teacher's sample of it, stored in pairs, then learned as any function is."""

import copy

import torch

from cdedu import karras_sigmas, sample_dpm_solver
from cdedu.losses import l2
from cdedu.student import EMA

RATE = 8e-4


def train(teacher, data, budget, generator):
    pairs = int(budget.left / 2) // 10  # half of the budget, at ten evaluations each
    noise = 80 * torch.randn(pairs, *data.shape[1:], generator=generator)
    ends = torch.cat([sample_dpm_solver(teacher, x, karras_sigmas(10)) for x in noise.split(256)])
    student = copy.deepcopy(teacher).requires_grad_(True)
    optimizer, average = torch.optim.Adam(student.parameters(), RATE), EMA(student, 0.95)
    for _ in budget:
        i = torch.randint(len(noise), (64,), generator=generator)
        loss = l2(student(noise[i], 80.0), ends[i])
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        average.update(student)
    return average.module

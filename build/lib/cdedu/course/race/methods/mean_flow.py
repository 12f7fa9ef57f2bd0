"""MeanFlow: a student that is told two noise levels jumps from the one to the other."""

import math

import torch

from cdedu.methods.flow_map import FlowMap, mean_flow_loss
from cdedu.student import EMA

RATE = 4e-4


def train(teacher, data, budget, generator):
    student = FlowMap.from_teacher(teacher)
    optimizer, average = torch.optim.Adam(student.parameters(), RATE), EMA(student, 0.95)
    length = math.log(80 / 0.002)
    for _ in budget:
        x0 = data[torch.randint(len(data), (64,), generator=generator)]
        high, share, kind = torch.rand(3, 64, generator=generator)
        share = torch.where(kind < 0.2, 1.0, torch.where(kind < 0.45, 0.0, share))  # s = σ, s = ε, or between
        sigma, s = (0.002 * (part * length).exp() for part in (high, share * high))
        loss = mean_flow_loss(student, teacher, x0, sigma, s, generator=generator)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        average.update(student)
    return average.module

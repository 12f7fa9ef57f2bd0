"""Continuous consistency distillation (sCD): the answer's slope along the teacher's path vanishes."""

import torch

from cdedu import ConsistencyModel, LogNormal
from cdedu.losses import continuous_consistency_loss
from cdedu.student import EMA

RATE = 8e-4


def train(teacher, data, budget, generator):
    student = ConsistencyModel.from_teacher(teacher)
    optimizer, average = torch.optim.Adam(student.parameters(), RATE), EMA(student, 0.95)
    for progress in budget:
        x0 = data[torch.randint(len(data), (64,), generator=generator)]
        sigma = LogNormal(-1.0, 1.4).sample(64, generator).clamp(0.002, 80)
        options = {"teacher": teacher, "ratio": min(1.0, 4 * progress), "generator": generator}
        loss = continuous_consistency_loss(student, student, x0, sigma, **options)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        average.update(student)
    return average.module

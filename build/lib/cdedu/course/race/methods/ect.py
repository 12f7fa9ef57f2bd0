"""Easy consistency tuning (ECT): the teacher's weights are the start, and the data show the way."""

import torch

from cdedu import ConsistencyModel, LogNormal
from cdedu.losses import easy_consistency_loss
from cdedu.student import EMA

RATE = 4e-4


def train(teacher, data, budget, generator):
    student = ConsistencyModel.from_teacher(teacher)
    optimizer, average = torch.optim.Adam(student.parameters(), RATE), EMA(student, 0.95)
    for _ in budget:
        x0 = data[torch.randint(len(data), (64,), generator=generator)]
        sigma = LogNormal(-1.1, 2.0).sample(64, generator).clamp(0.002, 80)
        loss = easy_consistency_loss(student, student, x0, sigma, q=256, generator=generator)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        average.update(student)
    return average.module

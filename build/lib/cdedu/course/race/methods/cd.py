"""Consistency distillation: the answers at both ends of a step of the teacher agree."""

import torch

from cdedu import ConsistencyModel, distillation_loss, karras_sigmas
from cdedu.losses import inverse_gap
from cdedu.student import EMA

RATE = 6e-4


def train(teacher, data, budget, generator):
    student = ConsistencyModel.from_teacher(teacher)
    optimizer, average = torch.optim.Adam(student.parameters(), RATE), EMA(student, 0.95)
    sigmas = karras_sigmas(18)
    for _ in budget:
        x0 = data[torch.randint(len(data), (64,), generator=generator)]
        loss = distillation_loss(
            student, student, teacher, x0, sigmas, generator=generator, weight=inverse_gap
        )
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        average.update(student)
    return average.module

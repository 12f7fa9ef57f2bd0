"""Progressive distillation: 8 steps of the teacher become 4, become 2, become 1, a student learning from the one before it."""

import copy

import torch

from cdedu import karras_sigmas
from cdedu.methods.progressive import progressive_loss
from cdedu.student import EMA

RATE = 2.4e-3


def train(teacher, data, budget, generator):
    sigmas, end = karras_sigmas(8), 1 / 3
    student = copy.deepcopy(teacher).requires_grad_(True)
    optimizer, average = torch.optim.Adam(student.parameters(), RATE), EMA(student, 0.95)
    for progress in budget:
        if progress > end and len(sigmas) > 2:  # the next round: the student is the teacher
            teacher, sigmas, end = copy.deepcopy(average.module), sigmas[::2], end + 1 / 3
            optimizer, average = torch.optim.Adam(student.parameters(), RATE), EMA(student, 0.95)
        x0 = data[torch.randint(len(data), (64,), generator=generator)]
        loss = progressive_loss(student, teacher, x0, sigmas, generator=generator)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        average.update(student)
    return average.module, (80.0, float(sigmas[1]))

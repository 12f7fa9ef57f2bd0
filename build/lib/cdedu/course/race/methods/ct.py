"""Consistency training: from random weights, without the teacher; both points get the same noise, on grids that grow finer."""

import torch

from cdedu import ConsistencyModel, consistency_training_loss, karras_sigmas
from cdedu.losses import inverse_gap
from cdedu.noise import curriculum
from cdedu.recipes import recipes
from cdedu.student import EMA

RATE = 2e-3


def train(teacher, data, budget, generator):
    network = recipes["digits"].network.build(tuple(data.shape[1:]))
    student = ConsistencyModel(network, teacher.sigma_data, noise_scale=teacher.noise_scale)
    optimizer, average = torch.optim.Adam(student.parameters(), RATE), EMA(student, 0.95)
    for progress in budget:
        sigmas = karras_sigmas(curriculum(int(1000 * progress), 1000, s0=2, s1=40))
        x0 = data[torch.randint(len(data), (64,), generator=generator)]
        loss = consistency_training_loss(
            student, student, x0, sigmas, generator=generator, weight=inverse_gap
        )
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        average.update(student)
    return average.module

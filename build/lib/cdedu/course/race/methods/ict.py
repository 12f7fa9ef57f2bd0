"""Improved consistency training (iCT): CT with a robust distance, middle noise levels more often, and grids that double."""

import torch

from cdedu import ConsistencyModel, LogNormal, consistency_training_loss, karras_sigmas
from cdedu.losses import inverse_gap, pseudo_huber
from cdedu.noise import improved_curriculum
from cdedu.recipes import recipes
from cdedu.student import EMA

RATE = 1e-3


def train(teacher, data, budget, generator):
    network = recipes["digits"].network.build(tuple(data.shape[1:]))
    student = ConsistencyModel(network, teacher.sigma_data, noise_scale=teacher.noise_scale)
    optimizer, average = torch.optim.Adam(student.parameters(), RATE), EMA(student, 0.95)
    options = {"distance": pseudo_huber, "weight": inverse_gap, "generator": generator}
    for progress in budget:
        sigmas = karras_sigmas(improved_curriculum(int(1000 * progress), 1000, s0=10, s1=160))
        often = LogNormal(-1.1, 2.0).grid_weights(sigmas)
        x0 = data[torch.randint(len(data), (64,), generator=generator)]
        loss = consistency_training_loss(student, student, x0, sigmas, index_weights=often, **options)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        average.update(student)
    return average.module

"""Distribution matching (DMD): the samples move to where the teacher finds them likelier than a denoiser of their own does."""

import copy

import torch

from cdedu import ConsistencyModel, LogNormal, add_noise, denoising_loss, karras_sigmas
from cdedu.methods.dmd import matching_loss
from cdedu.student import EMA

RATE = 2e-4


def train(teacher, data, budget, generator):
    student, fake = ConsistencyModel.from_teacher(teacher), copy.deepcopy(teacher).requires_grad_(True)
    theirs = torch.optim.Adam(fake.parameters(), 2e-3)
    ours, average = torch.optim.Adam(student.parameters(), RATE, betas=(0.5, 0.9)), EMA(student, 0.95)
    sigmas = karras_sigmas(18)
    for _ in budget:
        x0 = data[torch.randint(len(data), (64,), generator=generator)]
        x = student(add_noise(x0, 80.0, torch.randn(x0.shape, generator=generator)), 80.0)
        theirs.zero_grad()
        sigma = LogNormal(-1.2, 1.2).sample(64, generator)
        denoising_loss(fake, x.detach(), sigma, generator=generator).mean().backward()
        theirs.step()
        again = sigmas[torch.randint(18, (64,), generator=generator)]
        loss = matching_loss(teacher, fake, x, again, generator=generator)
        ours.zero_grad()
        loss.mean().backward()
        ours.step()
        average.update(student)
    return average.module

"""Adversarial diffusion distillation (ADD): a discriminator judges the sample, and the teacher says where it should go."""

import torch

from cdedu import ConsistencyModel, add_noise, karras_sigmas
from cdedu.methods.adversarial import (
    Discriminator,
    Features,
    adversarial_loss,
    discriminator_loss,
    renoised_distillation_loss,
)
from cdedu.student import EMA

RATE = 6e-4


def train(teacher, data, budget, generator):
    student = ConsistencyModel.from_teacher(teacher)
    features = Features(teacher, ["network.net.down_blocks.0", "network.net.mid_block"], sigma=0.2)
    critic = Discriminator(features, tuple(data.shape[1:]), levels=2)
    theirs = torch.optim.Adam(critic.heads.parameters(), 3e-3, betas=(0.5, 0.9))
    ours, average = torch.optim.Adam(student.parameters(), RATE, betas=(0.5, 0.9)), EMA(student, 0.95)
    levels, sigmas = torch.tensor([80.0, 0.8]), karras_sigmas(18)
    for _ in budget:
        x0 = data[torch.randint(len(data), (64,), generator=generator)]
        level = torch.randint(2, (64,), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        fake = student(add_noise(x0, levels[level], noise), levels[level])
        theirs.zero_grad()
        discriminator_loss(critic, x0, fake.detach(), level=level).mean().backward()
        theirs.step()
        again = sigmas[torch.randint(18, (64,), generator=generator)]
        pull = renoised_distillation_loss(teacher, fake, again, generator=generator)
        loss = adversarial_loss(critic, fake, level) + 2.5 * pull
        ours.zero_grad()
        loss.mean().backward()
        ours.step()
        average.update(student)
    return average.module

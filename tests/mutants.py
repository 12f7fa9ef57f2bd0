"""Show that each wrong formula fails a test.

    python tests/mutants.py [words]     all mutants, or those whose name contains one of the words

Every mutant is one mistake that has been made in the field: a copy of the package gets it, and the tests named beside it run
against the copy. The script ends with 1 if a mutant survives, if its text is no longer in the source, or if the copy without
any mistake fails. It forks, so it runs on Linux and macOS.
"""

import contextlib
import importlib
import io
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutant(NamedTuple):
    """A mistake: ``old`` in ``cdedu/<file>`` becomes ``new``; one of ``tests`` must fail."""

    name: str
    pitfall: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    # Target and gradient
    Mutant(
        "student and target at each other's points",
        "the target belongs at the lower noise level",
        "losses.py",
        "goal = target(x_next, sigma_next, **cond)\n    loss = distance(student(x, sigma, **cond), goal)",
        "goal = target(x, sigma, **cond)\n    loss = distance(student(x_next, sigma_next, **cond), goal)",
        "test_losses.py::test_distillation_loss_is_algorithm_2",
    ),
    Mutant(
        "target at the student's own point",
        "the target belongs at the lower noise level",
        "losses.py",
        "goal = target(x_next, sigma_next, **cond)",
        "goal = target(x, sigma, **cond)",
        "test_losses.py::test_at_the_last_step_the_target_is_the_teachers_point_itself",
    ),
    Mutant(
        "gradient into the target",
        "gradient flows through the noisier point only",
        "losses.py",
        "with torch.no_grad(), _same_masks_after(x):\n        goal = target",
        "with torch.enable_grad(), _same_masks_after(x):\n        goal = target",
        "test_losses.py::test_no_gradient_reaches_target_or_teacher "
        "test_losses.py::test_with_the_student_as_target_gradient_flows_through_the_noisier_point_only",
    ),
    Mutant(
        "sampling average as target",
        "target and sampling average are distinct roles",
        "training.py",
        "target,\n            teacher,",
        "state.average,\n            teacher,",
        "test_training.py::test_the_loss_is_given_student_target_and_teacher_in_their_places",
    ),
    Mutant(
        "samples from the student instead of its average",
        "target and sampling average are distinct roles",
        "training.py",
        "return self.average.module.eval()",
        "return self.model.eval()",
        "test_training.py::test_roles_of_the_weights_stay_apart",
    ),
    Mutant(
        "target takes a step of the student, not of the teacher",
        "the solver follows the teacher",
        "losses.py",
        "x_next = solver(teacher, x,",
        "x_next = solver(target, x,",
        "test_losses.py::test_distillation_loss_is_algorithm_2",
    ),
    # The boundary
    Mutant(
        "no boundary: ε = 0 in c_skip and c_out",
        "f(x, ε) = x is the only anchor to data",
        "teacher.py",
        "gap = sigma - sigma_min",
        "gap = sigma - 0 * sigma_min",
        "test_student.py::test_boundary_holds_bitwise_for_any_network",
    ),
    Mutant(
        "no boundary over a denoiser",
        "f(x, ε) = x is the only anchor to data",
        "student.py",
        "keep = self.sigma_min / sigma_like(sigma, x, sigma_min=self.sigma_min)",
        "keep = 0 * sigma_like(sigma, x)",
        "test_student.py::test_boundary_holds_bitwise_for_any_network",
    ),
    Mutant(
        "last step never drawn",
        "the step to ε is the only anchor to data",
        "noise.py",
        ".clamp(max=len(weights) - 1)",
        ".clamp(max=len(weights) - 2)",
        "test_losses.py::test_every_step_down_to_the_last_is_drawn_alike_and_none_starts_at_the_end",
    ),
    # Dropout
    Mutant(
        "random state not put back",
        "both sides need the same dropout masks",
        "losses.py",
        "with torch.no_grad(), _same_masks_after(x):",
        "with torch.no_grad():",
        "test_losses.py::test_dropout_masks_are_the_same_on_both_sides",
    ),
    # Schedules
    Mutant(
        "μ(k) with N − 1",
        "the paper divides by N(k), published code by N(k) − 1",
        "noise.py",
        "math.log(mu0) / n)",
        "math.log(mu0) / (n - 1))",
        "test_noise.py::test_target_rate_is_the_papers_and_not_that_of_published_code",
    ),
    Mutant(
        "iCT's grid without its + 1",
        "N counts points, one more than s₀ 2^⌊k/K'⌋ steps",
        "noise.py",
        "s1) + 1\n\n\ndef stage_of",
        "s1)\n\n\ndef stage_of",
        "test_noise.py::test_improved_curriculum_doubles_at_equal_intervals",
    ),
    # The continuous limit
    Mutant(
        "tangent of the wrong sign",
        "f moves against its change along the path",
        "losses.py",
        "goal = answer - c_out * g",
        "goal = answer + c_out * g",
        "test_losses.py::test_the_continuous_gradient_is_the_limit_of_the_discrete_one",
    ),
    Mutant(
        "derivative at a fixed x",
        "the tangent is a total derivative along the path",
        "losses.py",
        "direction = (x, sigma.contiguous()), (slope",
        "direction = (x, sigma.contiguous()), (0 * slope",
        "test_losses.py::test_the_path_derivative_is_the_central_difference",
    ),
    Mutant(
        "tangent normalised over the batch",
        "each sample's tangent has its own norm",
        "losses.py",
        "g.flatten(1).norm(dim=1) + c",
        "g.norm().expand(len(x)) + c",
        "test_losses.py::test_the_tangent_is_normalised_sample_by_sample_and_the_learned_weight_has_its_optimum",
    ),
    Mutant(
        "TrigFlow without its scale",
        "x_t is cos t times x_σ",
        "noise.py",
        "return (t.cos() * x).to(x.dtype), t.flatten()",
        "return x, t.flatten()",
        "test_noise.py::test_trigflow_is_edm_in_another_scale",
    ),
    # Distances
    Mutant(
        "pseudo-Huber element by element, mean",
        "the norm runs over the whole sample",
        "losses.py",
        "return ((a - b).square().flatten(1).sum(1) + c**2).sqrt() - c",
        "return (((a - b).square() + c**2).sqrt() - c).flatten(1).mean(1)",
        "test_losses.py::test_whole_image_pseudo_huber_is_not_the_elementwise_one",
    ),
    Mutant(
        "pseudo-Huber element by element, sum",
        "the norm runs over the whole sample",
        "losses.py",
        "return ((a - b).square().flatten(1).sum(1) + c**2).sqrt() - c",
        "return (((a - b).square() + c**2).sqrt() - c).flatten(1).sum(1)",
        "test_losses.py::test_whole_image_pseudo_huber_is_not_the_elementwise_one",
    ),
    # Preconditioning
    Mutant(
        "c_in without its square root",
        "the network needs unit variance",
        "teacher.py",
        "c_in = 1 / (sigma**2 + sigma_data**2).sqrt()",
        "c_in = 1 / (sigma**2 + sigma_data**2)",
        "test_student.py::test_golden_coefficients",
    ),
    Mutant(
        "c_out without σ_d",
        "the network needs unit variance",
        "teacher.py",
        "c_out = sigma_data * gap",
        "c_out = gap",
        "test_student.py::test_golden_coefficients",
    ),
    Mutant(
        "(σ − ε)² under the root of c_out",
        "the root holds σ²",
        "teacher.py",
        "gap / (sigma_data**2 + sigma**2).sqrt()",
        "gap / (sigma_data**2 + gap**2).sqrt()",
        "test_student.py::test_golden_coefficients",
    ),
    Mutant(
        "raw σ as the network's time",
        "the network is told noise_scale · ln σ",
        "teacher.py",
        "else s.log()",
        "else s",
        "test_teacher.py::test_the_network_sees_scaled_data_and_the_logarithm_of_sigma",
    ),
    Mutant(
        "c_noise in half precision",
        "bf16 rounds 250 ln σ by up to 4",
        "teacher.py",
        ".flatten().expand(len(x))",
        ".flatten().expand(len(x)).to(x.dtype)",
        "test_teacher.py::test_the_network_sees_scaled_data_and_the_logarithm_of_sigma",
    ),
    Mutant(
        "student with another noise scale than its teacher",
        "¼ ln σ and 250 ln σ must not be mixed",
        "student.py",
        "sigma_min, teacher.noise_scale, teacher.angle)",
        "sigma_min, angle=teacher.angle)",
        "test_student.py::test_student_starts_as_a_free_copy_of_the_teachers_network",
    ),
    # Sampling
    Mutant(
        "start from unit noise",
        "x = T z",
        "runs.py",
        "x = recipe.sigma_max * torch.randn((",
        "x = torch.randn((",
        "test_cli.py::test_samples_start_as_noise_of_the_greatest_level_and_the_student_is_told_so",
    ),
    Mutant(
        "noise put back without −ε²",
        "√(τ² − ε²) z",
        "samplers.py",
        "max(sigma**2 - eps**2, 0.0) ** 0.5",
        "sigma",
        "test_samplers.py::test_any_schedule_keeps_the_exact_variance",
    ),
    Mutant(
        "second step conditioned on the first level",
        "the student is told the level that x has",
        "samplers.py",
        "x = student(x, sigma, **cond)",
        "x = student(x, levels[0], **cond)",
        "test_samplers.py::test_any_schedule_keeps_the_exact_variance",
    ),
    Mutant(
        "denoiser clamped at every step",
        "EDM's sampler never clamps",
        "solvers.py",
        "d = (x - denoiser(x, sigma, **cond)) / s\n    x_euler",
        "d = (x - denoiser(x, sigma, **cond).clamp(-1, 1)) / s\n    x_euler",
        "test_samplers.py::test_heun_sampler_is_edms",
    ),
    Mutant(
        "Heun without its average",
        "the mean of two slopes",
        "solvers.py",
        "(d + d_next) / 2",
        "d_next",
        "test_solvers.py::test_a_student_without_loss_errs_as_the_solver_does",
    ),
    Mutant(
        "ancestral noise without the longer step down",
        "σ_down² + σ_up² = σ_s²",
        "samplers.py",
        "down = (sigma_next**2 - up**2) ** 0.5",
        "down = sigma_next",
        "test_samplers.py::test_ancestral_step_draws_from_the_posterior",
    ),
    # Grids and losses
    Mutant(
        "grid that counts steps instead of points",
        "N counts points",
        "noise.py",
        "ramp = torch.linspace(0, 1, n, dtype=torch.float64)",
        "ramp = torch.linspace(0, 1, n + 1, dtype=torch.float64)[:-1]",
        "test_noise.py::test_grid_has_the_published_values",
    ),
    Mutant(
        "grid computed in float32",
        "in float32 a fine grid loses its digits",
        "noise.py",
        "ramp = torch.linspace(0, 1, n, dtype=torch.float64)",
        "ramp = torch.linspace(0, 1, n)",
        "test_noise.py::test_grid_is_the_papers_counted_from_the_other_end",
    ),
    Mutant(
        "grid the wrong way round",
        "from T down to ε",
        "noise.py",
        "    if not (sigmas[:-1] > sigmas[1:]).all():",
        "    sigmas = sigmas.flip(0)\n    if False:",
        "test_noise.py::test_grid_has_the_published_values",
    ),
    Mutant(
        "fresh noise for the second point of consistency training",
        "both points share one noise",
        "losses.py",
        "add_noise(x0, sigma_next, noise)",
        "add_noise(x0, sigma_next, noise.flip(0))",
        "test_losses.py::test_consistency_training_is_distillation_with_the_data_as_denoiser",
    ),
    Mutant(
        "(σ + σ_d)² in the teacher's weight",
        "the weight is (σ² + σ_d²) / (σ σ_d)²",
        "losses.py",
        "/ (sigma * sigma_data) ** 2",
        "/ (sigma + sigma_data) ** 2",
        "test_losses.py::test_denoising_loss_is_edms",
    ),
    Mutant(
        "consistency training on the last grid throughout",
        "the grid of consistency training grows with the step",
        "training.py",
        "recipe.sigmas(points(state.step))",
        "recipe.sigmas()",
        "test_training.py::test_consistency_training_follows_the_schedules_of_grid_and_target",
    ),
    Mutant(
        "target of consistency training at one rate throughout",
        "the target average slows down as the grid grows",
        "training.py",
        "return target_rate(points(step), s0, stage.target_rate)",
        "return stage.target_rate",
        "test_training.py::test_consistency_training_follows_the_schedules_of_grid_and_target",
    ),
    Mutant(
        "optimiser forgotten on resume",
        "a resumed run ends where an uninterrupted one does",
        "training.py",
        '{"state": slots,',
        '{"state": {},',
        "test_training.py::test_a_resumed_run_ends_bitwise_where_an_uninterrupted_one_does",
    ),
    Mutant(
        "kernel distance with its diagonal",
        "the unbiased estimate leaves the diagonal out",
        "evaluation/__init__.py",
        "return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))",
        "return k.mean()",
        "test_evaluation.py::test_kernel_distance_is_unbiased",
    ),
    # Trade-offs
    Mutant(
        "break-even that forgets the student's calls",
        "a student's samples cost something too",
        "evaluation/comparison.py",
        "return training / (calls - student_calls)",
        "return training / calls",
        "test_comparison.py::test_at_the_break_even_both_have_cost_the_same",
    ),
    Mutant(
        "DPM-Solver++ that extrapolates by the wrong half step",
        "the slope is that of the step before, taken half a step ahead",
        "samplers.py",
        "h_next / (2 * h)",
        "h / (2 * h_next)",
        "test_samplers.py::test_dpm_solver_is_its_formula",
    ),
    Mutant(
        "DPM-Solver++ that remembers what it extrapolated",
        "the guess to keep is the denoiser's own",
        "samplers.py",
        "before = sigma, guess",
        "before = sigma, ahead",
        "test_samplers.py::test_dpm_solver_is_diffusers_stepping",
    ),
    Mutant(
        "entropy in the place of the number of classes",
        "1 if all are alike, all classes if equally frequent",
        "evaluation/__init__.py",
        "torch.special.entr(p).sum().exp()",
        "torch.special.entr(p).sum()",
        "test_evaluation.py::test_effective_classes_count_what_is_filled",
    ),
    Mutant(
        "memory test the wrong way round",
        "the copier is nearer to what it has seen",
        "evaluation/__init__.py",
        "(nearest(x, seen)[1] < nearest(x, unseen)[1])",
        "(nearest(x, seen)[1] > nearest(x, unseen)[1])",
        "test_evaluation.py::test_a_generator_without_memory_is_nearer_to_training_data_half_the_time",
    ),
    # Progressive distillation
    Mutant(
        "the student is taught the teacher's end",
        "the guess must be solved for; x'' is still noisy",
        "methods/progressive.py",
        "return ((x_end - ratio * x) / (1 - ratio)).to(x.dtype)",
        "return x_end.to(x.dtype)",
        "test_progressive.py::test_one_student_step_lands_where_two_teacher_steps_land",
    ),
    # Adversarial distillation
    Mutant(
        "hinge with the samples' sign turned",
        "samples are pushed below -1, data above 1",
        "methods/adversarial.py",
        "(1 + discriminator.score(made, level)).relu()",
        "(1 - discriminator.score(made, level)).relu()",
        "test_adversarial.py::test_hinge_and_penalty_by_hand",
    ),
    Mutant(
        "gradient of the student's half into the discriminator",
        "the discriminator would learn to like the student",
        "methods/adversarial.py",
        "{name: p.detach() for name, p in discriminator.named_parameters()}",
        "{name: p for name, p in discriminator.named_parameters()}",
        "test_adversarial.py::test_the_students_step_reaches_the_student_only",
    ),
    Mutant(
        "gradient through the teacher's guess",
        "the guess of a re-noised sample is a fixed goal",
        "methods/adversarial.py",
        "    with torch.no_grad():\n        guess = teacher(add_noise(fake.detach(), sigma, noise), sigma, **cond)",
        "    with torch.enable_grad():\n        guess = teacher(add_noise(fake, sigma, noise), sigma, **cond)",
        "test_adversarial.py::test_no_gradient_passes_through_a_teacher_that_answers_with_its_input",
    ),
    Mutant(
        "one score for all noise levels",
        "what is pooled before the discriminator may be traded",
        "methods/adversarial.py",
        "scores.gather(1, level[:, None])[:, 0]",
        "scores[:, 0]",
        "test_adversarial.py::test_each_noise_level_has_a_score_of_its_own",
    ),
    Mutant(
        "opponent's optimiser forgotten by a checkpoint",
        "an interrupted duel goes on exactly",
        "methods/adversarial.py",
        ' | {"opponent_optimizer": self.opponent_optimizer}',
        "",
        "test_adversarial.py::test_an_interrupted_run_goes_on_exactly",
    ),
    Mutant(
        "matching gradient turned round",
        "samples leave places that are too dense",
        "methods/dmd.py",
        "(fake(noisy, sigma, **cond) - guess) / per_sample",
        "(guess - fake(noisy, sigma, **cond)) / per_sample",
        "test_adversarial.py::test_matching_gradient_by_hand",
    ),
    # Video, points, captions
    Mutant(
        "noise levels of clips laid out frame by frame",
        "frames are folded clip by clip, and so must be their levels",
        "data/video.py",
        "sigma.flatten().repeat_interleave(x.shape[1])",
        "sigma.flatten().repeat(x.shape[1])",
        "test_video.py::test_frame_by_frame_each_frame_has_its_own_clips_noise_level",
    ),
    Mutant(
        "context pooled over the whole batch",
        "a point hears of its own cloud only",
        "networks/sets.py",
        "torch.cat([h.mean(1), h.amax(1), level], 1)",
        "torch.cat([h.mean((0, 1)).expand(len(h), -1), h.amax(1), level], 1)",
        "test_points.py::test_each_point_hears_of_the_others_of_its_own_cloud_only",
    ),
    Mutant(
        "Chamfer distance one way only",
        "what is missing counts as well as what is too much",
        "evaluation/points.py",
        "return d.amin(2).mean(1) + d.amin(1).mean(1)",
        "return d.amin(2).mean(1)",
        "test_points.py::test_chamfer_by_hand_and_without_order",
    ),
    Mutant(
        "negative cosines in the CLIP score",
        "a picture cannot fit worse than not at all",
        "evaluation/captions.py",
        "torch.cosine_similarity(images, texts).clamp(min=0)",
        "torch.cosine_similarity(images, texts)",
        "test_captions.py::test_the_score_is_the_cosine_and_never_negative",
    ),
    # Half precision, spoiled weights, labels left out
    Mutant(
        "loss and solver in half precision",
        "autocast belongs around the networks alone",
        "training.py",
        "                    loss = loss_of(part).sum() / sampler.mine\n",
        "                    with runtime.autocast():\n                        loss = loss_of(part).sum() / sampler.mine\n",
        "test_runtime.py::test_the_loss_itself_is_never_in_half_precision",
    ),
    Mutant(
        "target in full precision",
        "student and target must compute alike",
        "runtime.py",
        "        self._compiled(inner)\n        return self._precise(target)",
        "        self._compiled(inner)\n        return target",
        "test_runtime.py::test_the_loss_itself_is_never_in_half_precision",
    ),
    Mutant(
        "copies in another order of memory",
        "the network is placed before it is copied",
        "training.py",
        "student = runtime.place(student).train()",
        "student = student.to(runtime.device).train()",
        "test_runtime.py::test_copies_of_a_network_have_its_order_in_memory",
    ),
    Mutant(
        "a state saved without a look",
        "NaN must not replace the last good state",
        "runs.py",
        "        check_finite(state)\n",
        "",
        "test_runs.py::test_weights_that_are_no_numbers_never_replace_a_state",
    ),
    Mutant(
        "the last step's weights not looked at",
        "no loss has seen them",
        "training.py",
        "    if state.step == state.steps:\n        check_finite(state)\n",
        "",
        "test_training.py::test_the_last_steps_weights_are_looked_at_too",
    ),
    Mutant(
        "further averages at the first one's rate",
        "each average has its own rate",
        "training.py",
        "average.update(state.model, min(average.rate,",
        "average.update(state.model, min(state.average.rate,",
        "test_training.py::test_further_averages_are_those_of_runs_with_their_rates",
    ),
    Mutant(
        "labels left out for the student, too",
        "only the teacher is to be guided",
        "training.py",
        'if role == "teacher" and recipe.teacher.label_dropout:',
        "if recipe.teacher.label_dropout:",
        "test_training.py::test_a_share_of_the_labels_means_none_while_a_teacher_trains_and_nothing_else_changes",
    ),
    Mutant(
        "perceptual distance of activations as they are",
        "which features are there counts, not how strong they are",
        "perceptual.py",
        "(normalize(x, dim=1) - normalize(y, dim=1))",
        "(x - y)",
        "test_losses.py::test_the_perceptual_distance_is_the_formula_and_has_gradients_near_zero",
    ),
    Mutant(
        "one neighbour too few in precision and recall",
        "the nearest neighbour of a point among its own is itself",
        "evaluation/__init__.py",
        "kthvalue(k + 1, dim=1)",
        "kthvalue(k, dim=1)",
        "test_evaluation.py::test_a_point_is_inside_up_to_the_distance_of_the_kth_neighbour",
    ),
    Mutant(
        "the table's precision and recall of second neighbours",
        "the size of the neighbourhood is part of the metric's definition",
        "evaluation/comparison.py",
        "k=min(3, self.n - 1)",
        "k=min(2, self.n - 1)",
        "test_comparison.py::test_precision_and_recall_are_of_third_neighbours",
    ),
    Mutant(
        "speed of a resumed run over all its steps",
        "the steps before were made in another time",
        "runs.py",
        '"steps_per_second": (state.step - first) / seconds',
        '"steps_per_second": state.step / seconds',
        "test_runs.py::test_speed_counts_the_steps_since_the_resumption",
    ),
    # Full scale
    Mutant(
        "cosine before sine in the time embedding",
        "EDM's network has the sines first",
        "networks/edm.py",
        "else (phase.sin(), phase.cos())",
        "else (phase.cos(), phase.sin())",
        "test_networks_edm.py::test_the_time_embedding_runs_from_sine_to_cosine_with_both_ends",
    ),
    Mutant(
        "time embedding without its last frequency",
        "EDM's frequencies include both ends",
        "networks/edm.py",
        "self.half if self.adm else self.half - 1",
        "self.half",
        "test_networks_edm.py::test_the_time_embedding_runs_from_sine_to_cosine_with_both_ends",
    ),
    Mutant(
        "query, key and value one after the other",
        "EDM interleaves them channel by channel",
        "networks/edm.py",
        ".unflatten(1, (self.heads, -1, 3)).permute(3, 0, 1, 4, 2)",
        ".unflatten(1, (self.heads, 3, -1)).permute(2, 0, 1, 4, 3)",
        "test_networks_edm.py::test_a_block_is_edms",
    ),
    Mutant(
        "residual sum without √½",
        "EDM scales every skip by √½",
        "networks/edm.py",
        "self.scale = 1.0 if adm else math.sqrt(0.5)",
        "self.scale = 1.0",
        "test_networks_edm.py::test_a_block_is_edms",
    ),
    Mutant(
        "sine before cosine in ADM's time embedding",
        "ADM has the cosines first",
        "networks/edm.py",
        "(phase.cos(), phase.sin()) if self.adm",
        "(phase.sin(), phase.cos()) if self.adm",
        "test_networks_edm.py::test_time_runs_from_cosine_to_sine_and_the_label_joins_it_late",
    ),
    Mutant(
        "the image joins the encoder, but not what the decoder is handed",
        "NCSN++'s decoder gets the sum of image and features",
        "networks/edm.py",
        "x = skips[-1] = image =",
        "x = image =",
        "test_networks_edm.py::test_the_image_joins_the_features_and_goes_on_with_them",
    ),
    Mutant(
        "a pickle may name anything",
        "only the names of a checkpoint of EDM",
        "pretrained/edm.py",
        "if name not in _NAMES.get(module, ()):",
        "if name == module:",
        "test_pretrained_edm.py::test_a_poisoned_file_is_refused_and_nothing_in_it_runs",
    ),
    # Somebody else's models
    Mutant(
        "a DDPM fed on the VE scale",
        "its input is x / √(1 + σ²)",
        "adapters.py",
        "self.network((alpha * x).to(x.dtype)",
        "self.network(x.to(x.dtype)",
        "test_pretrained_diffusers.py::test_euler_in_sigma_is_ddim",
    ),
    Mutant(
        "time interpolated in σ",
        "t(σ) is interpolated in ln σ",
        "adapters.py",
        "(log_sigma - low) / (high - low)",
        "(log_sigma.exp() - low.exp()) / (high.exp() - low.exp())",
        "test_pretrained_diffusers.py::test_time_is_interpolated_in_the_logarithm_of_sigma",
    ),
    Mutant(
        "ε-prediction subtracted on the VP scale",
        "D = x − σ ε with x on our scale",
        "adapters.py",
        "out = x - s * out",
        "out = alpha * x - s * out",
        "test_pretrained_diffusers.py::test_predictions_of_the_same_image_agree",
    ),
    Mutant(
        "v with the other sign",
        "v = √ᾱ z − √(1−ᾱ) x₀",
        "adapters.py",
        "out = alpha * (alpha * x - s * out)",
        "out = alpha * (alpha * x + s * out)",
        "test_pretrained_diffusers.py::test_predictions_of_the_same_image_agree",
    ),
    Mutant(
        "score network of EDM's VP told t in [0, 1]",
        "it counts M − 1 time steps",
        "adapters.py",
        "c_noise = ((self.steps - 1) * t)",
        "c_noise = t",
        "test_pretrained_edm.py::test_baselines_come_back_in_their_own_preconditioning",
    ),
    Mutant(
        "score network of EDM's VE told ln σ",
        "it is told ln (σ/2)",
        "adapters.py",
        "(s / 2).log()",
        "s.log()",
        "test_pretrained_edm.py::test_baselines_come_back_in_their_own_preconditioning",
    ),
    Mutant(
        "recipe's ε below what the teacher knows",
        "a DDPM knows nothing below σ = .01",
        "training.py",
        "low = max(recipe.sigma_min,",
        "low = min(recipe.sigma_min,",
        "test_pretrained_diffusers.py::test_outside_its_range_a_teacher_is_clamped_below_and_refuses_above",
    ),
    Mutant(
        "student over a denoiser with (ε/σ)²",
        "untrained it is one Euler step, which has ε/σ",
        "student.py",
        "keep = self.sigma_min / sigma_like(sigma, x, sigma_min=self.sigma_min)",
        "keep = (self.sigma_min / sigma_like(sigma, x, sigma_min=self.sigma_min)) ** 2",
        "test_student.py::test_student_over_a_denoiser_starts_as_one_euler_step",
    ),
    Mutant(
        "guidance weight counted from the label",
        "w = 1 is the conditional denoiser, not w = 0",
        "methods/guidance.py",
        "return (without + w *",
        "return (with_label + w *",
        "test_guidance.py::test_weights_0_and_1_are_no_label_and_the_label",
    ),
    Mutant(
        "guidance away from the label",
        "the push goes from no label to the label",
        "methods/guidance.py",
        "torch.cat([torch.full_like(labels, self.null), labels])",
        "torch.cat([labels, torch.full_like(labels, self.null)])",
        "test_guidance.py::test_weights_0_and_1_are_no_label_and_the_label",
    ),
    Mutant(
        "classifier's gradient times σ",
        "Tweedie: a change of the score counts σ² in the denoiser",
        "methods/guidance.py",
        "w * s**2 * gradient",
        "w * s * gradient",
        "test_guidance.py::test_classifier_guidance_with_exact_parts_is_the_conditional_denoiser",
    ),
    Mutant(
        "exported with clipping",
        "a clipped guess makes other images",
        "pretrained/pipeline.py",
        "clip_denoised=False,",
        "clip_denoised=True,",
        "test_pretrained_export.py::test_images_are_equal_in_one_and_several_steps",
    ),
    Mutant(
        "mean over a part instead of the batch",
        "accumulated gradients are those of the whole batch",
        "training.py",
        "loss_of(part).sum() / sampler.mine",
        "loss_of(part).mean()",
        "test_runtime.py::test_parts_of_a_batch_give_the_weights_of_the_whole",
    ),
    Mutant(
        "every process draws the same noise",
        "what a sample gets depends on its place in the global batch",
        "training.py",
        "return (self.recipe.seed, self.role, step, *([place] if place else []))",
        "return (self.recipe.seed, self.role, step, *([place - self.first] if place > self.first else []))",
        "test_runtime.py::test_what_a_sample_gets_does_not_depend_on_processes_or_parts",
    ),
    Mutant(
        "images truncated to 8 bits",
        "scores are of rounded images",
        "evaluation/inception.py",
        ".round().to(torch.uint8)",
        ".to(torch.uint8)",
        "test_inception.py::test_images_become_8_bit_as_they_were_read",
    ),
    # Links of a student
    Mutant(
        "links along the student's own walk",
        "the teacher finds the neighbour",
        "methods/anatomy.py",
        "x = solver(teacher, x, sigma, sigma_next)",
        "x = solver(student, x, sigma, sigma_next)",
        "test_anatomy.py::test_links_add_up_to_the_distance_from_the_composed_solver",
    ),
    Mutant(
        "the neighbour is asked at the level it came from",
        "an answer needs the point and its own noise level",
        "methods/anatomy.py",
        "answers.append(student(x, sigma_next))",
        "answers.append(student(x, sigma))",
        "test_anatomy.py::test_links_add_up_to_the_distance_from_the_composed_solver",
    ),
    # Latent consistency
    Mutant(
        "the scale where LCM's weight is meant",
        "ω is the guidance scale minus one",
        "networks/latent.py",
        "guidance_embedding(w - 1, self.dim)",
        "guidance_embedding(w, self.dim)",
        "test_latent.py::test_lcms_weight_is_the_scale_minus_one",
    ),
    Mutant(
        "latents decoded as they are",
        "the scale must be undone before decoding (diffusers issue 5166)",
        "networks/latent.py",
        "self.decoder(z / self.scale)",
        "self.decoder(z)",
        "test_latent.py::test_latents_have_the_wanted_size_and_the_scale_is_undone",
    ),
    Mutant(
        "sigma_data in LCM's c_out",
        "what c_out multiplies is a guess of x0 already",
        "methods/latent.py",
        "scaled / (scaled**2",
        "sigma_data * scaled / (scaled**2",
        "test_latent.py::test_the_boundary_is_lcms",
    ),
    Mutant(
        "skipping solver, target at the next point",
        "the target stands where the solver's step ends",
        "losses.py",
        "sigmas[(index + skip).clamp(max=steps)]",
        "sigmas[index + 1]",
        "test_latent.py::test_skipping_is_one_solver_step_over_k_points_and_ends_at_the_last",
    ),
]


def mutated(mutant: Mutant) -> str:
    """The source with the mistake in it."""
    text = (ROOT / "cdedu" / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name}: its text occurs {text.count(mutant.old)} times in cdedu/{mutant.file}, want once; mend MUTANTS"
        )
    return text.replace(mutant.old, mutant.new)


def run(tests: list[str], file: str | None = None, text: str = "") -> tuple[int, str]:
    """Pytest against a copy of the package in which ``file`` says ``text``: its exit status and its output.

    For a fresh process only, which has not yet imported the package.
    """
    import pytest

    assert "cdedu" not in sys.modules
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "cdedu"
        shutil.copytree(ROOT / "cdedu", copy, ignore=shutil.ignore_patterns("__pycache__", "weights"))
        if file:
            (copy / file).write_text(text)
        sys.path.insert(0, folder)
        options = f"-x -q --tb=no -o addopts= --rootdir {ROOT} -p no:cacheprovider"
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            status = int(pytest.main([*options.split(), *(f"{ROOT}/tests/{test}" for test in tests)]))
        if Path(sys.modules["cdedu"].__file__ or "").parent != copy:
            return 99, "the tests did not import the copy"
        return status, output.getvalue()


def control(chosen: list[Mutant]) -> tuple[int, str]:
    """The copy without any mistake."""
    return run(sorted({test for m in chosen for test in m.tests.split()}))


def verdict(mutant: Mutant) -> tuple[bool, str]:
    """Whether the mutant was killed, and by which test."""
    status, output = run(mutant.tests.split(), mutant.file, mutated(mutant))
    found = re.search(r"^FAILED \S*tests/(\S+)", output, re.MULTILINE)
    if status == 1 and found:
        return True, found[1]
    return False, "SURVIVED" if status == 0 else f"NO VERDICT (pytest ended with {status})"


def main(words: list[str]) -> int:
    start = time.perf_counter()
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    if not chosen:
        print(f"no mutant is called {' or '.join(words)}; there are: {', '.join(m.name for m in MUTANTS)}")
        return 1
    try:
        for mutant in chosen:
            mutated(mutant)
    except ValueError as error:
        print(error)
        return 1
    # Forked processes share what takes long to import; the package itself each of them imports anew.
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.dont_write_bytecode = True
    for name in "pytest hypothesis scipy.stats scipy.integrate torch._dynamo safetensors.torch matplotlib.image tyro".split():
        importlib.import_module(name)
    killed = 0
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        status, output = pool.apply(control, (chosen,))
        if status:
            print(f"The copy without any mistake fails:\n{output}")
            return 1
        for mutant, (dead, by) in zip(chosen, pool.imap(verdict, chosen, chunksize=1), strict=True):
            killed += dead
            print(
                f"{'killed' if dead else 'ALIVE '}  {mutant.name} ({mutant.pitfall})\n        {by}",
                flush=True,
            )
    print(f"{killed} of {len(chosen)} wrong variants killed in {time.perf_counter() - start:.0f} s")
    return killed < len(chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The training loops: repeatable, resumable bit by bit, and stopped by a loss that is no number."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from cdedu import training
from cdedu.data import Dataset
from cdedu.mixture import GaussianMixture
from cdedu.networks import MLP
from cdedu.noise import LogNormal, curriculum, improved_curriculum, target_rate
from cdedu.recipes import Network, Recipe, StudentStage, TeacherStage, get_recipe
from cdedu.runtime import Runtime
from cdedu.student import ConsistencyModel, DenoiserStudent
from cdedu.teacher import Teacher
from cdedu.training import State, distill, train_consistency, train_teacher

G = torch.Generator().manual_seed(0)
X = 0.5 * torch.randn(200, 2, generator=G)
DATA = Dataset("tiny", X[:150], X[150:], torch.arange(150) % 3, torch.arange(50) % 3)
TINY = Recipe(
    "tiny",
    "tiny",
    Network(width=16, depth=1, classes=3),
    TeacherStage(steps=8, batch=16),
    StudentStage(
        steps=8, batch=16, points=6, target_rate=0.9, ema=0.99, weight="inverse_gap", index="lognormal"
    ),
)


class Dropping(MLP):
    def forward(self, x, c_noise, labels=None):
        return torch.nn.functional.dropout(super().forward(x, c_noise, labels), 0.3, self.training)


def fresh_teacher(seed: int = 0) -> Teacher:
    torch.manual_seed(seed)
    return Teacher(Dropping(2, 16, 1, 3))


def states(role: str, recipe: Recipe = TINY, resume=None):
    if role == "teacher":
        return train_teacher(recipe, DATA, resume=resume)
    return distill(recipe, fresh_teacher(), DATA, resume=resume)


def run(role: str, recipe: Recipe = TINY, steps: int | None = None, resume=None) -> State:
    for state in states(role, recipe, resume):
        if state.step == steps:
            break
    return state


def snapshot(state: State) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in state.tensors().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(t.equal(b[name]) for name, t in a.items())


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_one_seed_gives_the_same_weights_twice_whatever_was_drawn_before(role):
    a = snapshot(run(role))
    torch.rand(17)
    assert same(a, snapshot(run(role)))
    assert not same(a, snapshot(run(role, replace(TINY, seed=1))))


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("at", [1, 5])
def test_a_resumed_run_ends_bitwise_where_an_uninterrupted_one_does(role, at):
    """With dropout, labels, a target average and a sampling average."""
    half = run(role, steps=at)
    resumed = run(role, resume=(snapshot(half), half.step))
    assert resumed.step == 8 and same(snapshot(resumed), snapshot(run(role)))


def test_a_finished_run_has_nothing_left_to_do():
    state = run("teacher")
    assert list(states("teacher", resume=(snapshot(state), 8))) == []


def test_the_random_state_outside_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for steps in (train_teacher(TINY, DATA), distill(TINY, Teacher(MLP(2, 16, 1, 3)), DATA)):
        torch.set_rng_state(before)
        next(steps)
        assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("role, loss", [("teacher", "denoising_loss"), ("student", "distillation_loss")])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_weights(
    monkeypatch, role, loss, value
):
    function, calls = getattr(training, loss), []

    def poisoned(*args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs) * (value if len(calls) == 5 else 1)

    expected = snapshot(run(role, steps=4))
    monkeypatch.setattr(training, loss, poisoned)
    with pytest.raises(
        FloatingPointError, match=rf"{value} at step 5 of 8; the weights of step 4 .* {role}\.lr"
    ):
        for state in states(role):
            last = state
    assert last.step == 4 and same(snapshot(last), expected)


def test_roles_of_the_weights_stay_apart():
    """The target follows the student at its own rate, the sampling average at another, the teacher stands still."""
    teacher = fresh_teacher()
    frozen = copy.deepcopy(teacher.state_dict())
    target = average = None
    for state in distill(TINY, teacher, DATA):
        theta = torch.nn.utils.parameters_to_vector(state.model.parameters()).detach().clone()
        k, mu = state.step - 1, TINY.student.target_rate
        rate = min(TINY.student.ema, (1 + k) / (10 + k))
        target = theta if target is None else mu * target + (1 - mu) * theta
        average = theta if average is None else rate * average + (1 - rate) * theta
        for role, expected in ((state.target, target), (state.average, average)):
            got = torch.nn.utils.parameters_to_vector(role.module.parameters())
            assert torch.allclose(got, expected, atol=1e-6)
    assert state.result is state.average.module and not state.result.training
    assert all(t.equal(frozen[name]) for name, t in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_the_loss_is_given_student_target_and_teacher_in_their_places(monkeypatch, rate):
    seen = []
    function = training.distillation_loss
    monkeypatch.setattr(training, "distillation_loss", lambda *a, **k: (seen.append(a), function(*a, **k))[1])
    teacher = fresh_teacher()
    state = next(distill(replace(TINY, student=replace(TINY.student, target_rate=rate)), teacher, DATA))
    student, target, phi = seen[0][:3]
    assert student is state.model and phi is teacher and not teacher.training and student.training
    assert target is (state.target if rate else student) and (target is not state.average)


def test_labels_reach_the_network(monkeypatch):
    seen = []
    monkeypatch.setattr(
        MLP,
        "forward",
        lambda self, x, c, labels=None: (seen.append(labels), 0 * x + self.layers[0].bias[0])[1],
    )
    next(train_teacher(TINY, DATA))
    next(distill(TINY, Teacher(MLP(2, 16, 1, 3)), DATA))
    assert len(seen) == 1 + 4 and all(labels is not None and labels.max() < 3 for labels in seen)


def test_any_denoiser_can_teach():
    exact = GaussianMixture(torch.tensor([[0.2, -0.1]]), 0.5)
    plain = Dataset("plain", X[:150], X[150:])
    recipe = replace(TINY, network=Network(width=16, depth=1))
    assert isinstance(next(distill(recipe, exact, plain)).model, ConsistencyModel)

    class Module(torch.nn.Linear):
        def forward(self, x, sigma):
            return super().forward(x)

    assert isinstance(next(distill(recipe, Module(2, 2), plain)).model, DenoiserStudent)


def test_distillation_comes_nearer_to_the_exact_flow():
    """One Gaussian as teacher: after 400 small steps the student's error at T = 5 is below a third of what it was."""
    exact = GaussianMixture(torch.tensor([[0.4, -0.3]]), 0.3)
    data = Dataset("gaussian", exact.sample(2000, torch.Generator().manual_seed(0)), X)
    stage = StudentStage(steps=400, batch=128, lr=3e-3, points=6, weight="inverse_gap", ema=0.9)
    recipe = Recipe("gaussian", "gaussian", Network(width=32, depth=2), student=stage, sigma_max=5.0)
    x = 5 * torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    truth, errors = exact.consistency(x, 5.0), []
    for state in distill(recipe, exact, data):
        if state.step in (1, 400):
            errors.append((state.result(x, 5.0) - truth).square().mean().sqrt().item())
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("warmup, rates", [(0, [1, 1, 1, 1, 1]), (4, [0.25, 0.5, 0.75, 1, 1])])
def test_the_learning_rate_rises_over_the_warm_up(role, warmup, rates):
    recipe = replace(TINY, **{role: replace(getattr(TINY, role), warmup=warmup, steps=5)})
    lr = getattr(TINY, role).lr
    got = [state.optimizer.param_groups[0]["lr"] for state in states(role, recipe)]
    assert got == pytest.approx([lr * rate for rate in rates])
    half = run(role, recipe, steps=2)
    (first, *_) = [s.optimizer.param_groups[0]["lr"] for s in states(role, recipe, (snapshot(half), 2))]
    assert first == pytest.approx(lr * rates[2])


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_warm_restart_takes_the_weights_into_every_role_and_nothing_else(role):
    """With a learning rate of almost nothing, student, target and average all stay where the start was."""
    recipe = replace(TINY, **{role: replace(getattr(TINY, role), lr=1e-12, steps=2)})
    start = (Teacher if role == "teacher" else ConsistencyModel)(MLP(2, 16, 1, 3))
    frozen = copy.deepcopy(start.state_dict())
    if role == "teacher":
        (state, *_) = train_teacher(recipe, DATA, start=start)
    else:
        (state, *_) = distill(recipe, Teacher(MLP(2, 16, 1, 3)), DATA, start=start)
    for module in (state.model, state.average.module, *([state.target.module] if state.target else [])):
        assert all(t.allclose(frozen[name], atol=1e-9) for name, t in module.state_dict().items())
    assert all(t.equal(frozen[name]) for name, t in start.state_dict().items())
    assert (state.target is not None) == (role == "student")


def test_the_students_dropout_is_its_own():
    class Network16(MLP):
        def __init__(self):
            super().__init__(2, 16, 1, 3)
            self.layers.insert(1, torch.nn.Dropout(0.4))

    def rates(module):
        return {m.p for m in module.modules() if isinstance(m, torch.nn.Dropout)}

    teacher, phi = Teacher(Network16()), []
    for rate in (0.0, 0.25):
        recipe = replace(TINY, student=replace(TINY.student, dropout=rate))
        state = next(distill(recipe, teacher, DATA))
        assert rates(state.model) == rates(state.target) == rates(state.average) == {rate}
        phi.append(rates(teacher))
    assert phi == [{0.4}] * 2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"teacher": {"steps": 0}}, "teacher.steps = 0"),
        ({"student": {"batch": -1}}, "student.batch = -1"),
        ({"student": {"lr": math.nan}}, "student.lr = nan"),
        ({"teacher": {"ema": 1.0}}, "teacher.ema = 1.0"),
        ({"student": {"target_rate": 1.0}}, "target_rate = 1.0"),
        ({"student": {"points": 1}}, "points = 1, but it must be from 2"),
        ({"student": {"lr": math.inf}}, "lr = inf, but it must be positive and finite"),
        ({"student": {"easy_stages": 0}}, "easy_stages = 0, but it must be at least 1"),
        ({"student": {"tangent_warmup": -1}}, "tangent_warmup = -1, but it must be at least 0"),
        ({"sigma_min": 100.0}, "sigma_min < sigma_max"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_recipes_refuse(change, words):
    parts = {k: replace(getattr(TINY, k), **v) if isinstance(v, dict) else v for k, v in change.items()}
    with pytest.raises(ValueError, match=words):
        replace(TINY, **parts)


def test_an_unknown_recipe_is_named():
    with pytest.raises(ValueError, match="recipe 'toys' is not known; choose one of toy, digits"):
        get_recipe("toys")
    with pytest.raises(ValueError, match="at least 2 points"):
        get_recipe("toy").sigmas(0)


# Consistency training: N from 2 to 5 + 1 within eight steps, with a target average, labels and iCT's weights.


def trained(recipe: Recipe = TINY, steps: int | None = None, resume=None) -> State:
    for state in train_consistency(recipe, DATA, resume=resume):
        if state.step == steps:
            break
    return state


@pytest.mark.parametrize("at", [1, 5])
def test_consistency_training_resumes_bitwise_in_the_middle_of_its_schedules(at):
    whole, half = snapshot(trained()), trained(steps=at)
    resumed = trained(resume=(snapshot(half), at))
    assert resumed.step == 8 and same(snapshot(resumed), whole)
    assert not same(whole, snapshot(trained(replace(TINY, seed=1))))


@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_consistency_training_follows_the_schedules_of_grid_and_target(monkeypatch, rate):
    """N(k) points in the loss of step k, and the target average moves at μ(k) of the same step."""
    points, function = [], training.consistency_training_loss

    def loss(student, target, x0, sigmas, **options):
        points.append(len(sigmas))
        assert (target is student) == (rate == 0)
        return function(student, target, x0, sigmas, **options)

    monkeypatch.setattr(training, "consistency_training_loss", loss)
    recipe, theta_minus = replace(TINY, student=replace(TINY.student, target_rate=rate)), None
    for state in train_consistency(recipe, DATA):
        theta = torch.nn.utils.parameters_to_vector(state.model.parameters()).detach().clone()
        if rate:
            mu = target_rate(curriculum(state.step - 1, 8, 2, 5), 2, rate)
            theta_minus = theta if theta_minus is None else mu * theta_minus + (1 - mu) * theta
            got = torch.nn.utils.parameters_to_vector(state.target.module.parameters())
            assert torch.allclose(got, theta_minus, atol=1e-6)
    assert points == [curriculum(k, 8, 2, 5) for k in range(8)] and points[0] == 2 and max(points) == 6


def test_consistency_training_costs_four_evaluations_an_image(monkeypatch):
    """Two calls of the network, one of them with a gradient, which costs two more; no teacher."""
    calls, forward = [], MLP.forward

    def counted(self, x, c_noise, labels=None):
        calls.append((len(x), 3 if torch.is_grad_enabled() else 1))
        return forward(self, x, c_noise, labels)

    monkeypatch.setattr(MLP, "forward", counted)
    next(train_consistency(TINY, DATA))
    assert sum(n * cost for n, cost in calls) == 4 * TINY.student.batch
    calls.clear()
    next(distill(TINY, Teacher(MLP(2, 16, 1, 3)), DATA))
    assert sum(n * cost for n, cost in calls) == 6 * TINY.student.batch


def test_consistency_training_comes_nearer_to_the_exact_flow():
    """One Gaussian: after 600 small steps the student's error at T = 5 is below a third of what it was."""
    exact = GaussianMixture(torch.tensor([[0.4, -0.3]]), 0.3)
    data = Dataset("gaussian", exact.sample(2000, torch.Generator().manual_seed(0)), X)
    stage = StudentStage(
        steps=600, batch=128, lr=3e-3, points=18, distance="l2", weight="inverse_gap", ema=0.9
    )
    recipe = Recipe("gaussian", "gaussian", Network(width=32, depth=2), student=stage, sigma_max=5.0)
    x = 5 * torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    truth, errors = exact.consistency(x, 5.0), []
    for state in train_consistency(recipe, data):
        if state.step in (1, 600):
            errors.append((state.result(x, 5.0) - truth).square().mean().sqrt().item())
    assert errors[1] < errors[0] / 3


def test_consistency_training_refuses_a_grid_that_cannot_grow():
    with pytest.raises(ValueError, match=r"'tiny': student.points = 6 .* above the first, s0 = 10"):
        next(train_consistency(TINY, DATA, s0=10))


# The other methods: iCT's curriculum, easy tuning in stages, the continuous limit.


@pytest.mark.parametrize("without_teacher", [True, False])
def test_continuous_training_resumes_bitwise_and_its_ratio_rises(monkeypatch, without_teacher):
    recipe = replace(TINY, student=replace(TINY.student, method="continuous", tangent_warmup=4))
    ratios, function = [], training.continuous_consistency_loss

    def loss(student, target, x0, sigma, *, teacher, **options):
        assert (teacher is None) == without_teacher
        ratios.append(options["ratio"])
        return function(student, target, x0, sigma, teacher=teacher, **options)

    monkeypatch.setattr(training, "continuous_consistency_loss", loss)
    states = trained if without_teacher else lambda *a, **k: run("student", *a, **k)
    whole = snapshot(states(recipe))
    assert ratios == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    half = states(recipe, steps=3)
    assert same(snapshot(states(recipe, resume=(snapshot(half), 3))), whole)
    assert not same(whole, snapshot(states(replace(TINY, student=replace(TINY.student, target_rate=0.9)))))


def test_distillation_in_the_limit_comes_nearer_to_the_exact_flow():
    exact = GaussianMixture(torch.tensor([[0.4, -0.3]]), 0.3)
    data = Dataset("gaussian", exact.sample(2000, torch.Generator().manual_seed(0)), X)
    stage = StudentStage(
        method="continuous",
        steps=400,
        batch=128,
        lr=3e-3,
        ema=0.9,
        log_sigma=LogNormal(-1.0, 1.4),
        tangent_warmup=100,
    )
    recipe = Recipe("gaussian", "gaussian", Network(width=32, depth=2), student=stage, sigma_max=5.0)
    x = 5 * torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    truth, errors = exact.consistency(x, 5.0), []
    for state in distill(recipe, exact, data):
        if state.step in (1, 400):
            errors.append((state.result(x, 5.0) - truth).square().mean().sqrt().item())
    assert errors[1] < errors[0] / 3


def test_easy_tuning_goes_through_its_stages(monkeypatch):
    stages, function = [], training.easy_consistency_loss

    def loss(*arguments, **options):
        stages.append(options["stage"])
        return function(*arguments, **options)

    monkeypatch.setattr(training, "easy_consistency_loss", loss)
    recipe = replace(TINY, student=replace(TINY.student, method="easy", easy_stages=4, easy_q=2.0))
    for _ in distill(recipe, fresh_teacher(), DATA):
        pass
    assert stages == [0, 0, 1, 1, 2, 2, 3, 3]


def test_consistency_training_takes_icts_curriculum(monkeypatch):
    points, function = [], training.consistency_training_loss

    def loss(student, target, x0, sigmas, **options):
        points.append(len(sigmas))
        return function(student, target, x0, sigmas, **options)

    monkeypatch.setattr(training, "consistency_training_loss", loss)
    recipe = replace(TINY, student=replace(TINY.student, points=17, target_rate=0.0))
    for _ in train_consistency(recipe, DATA, s0=2, schedule=improved_curriculum):
        pass
    assert points == [3, 3, 5, 5, 9, 9, 17, 17]


def test_levels_of_a_student_are_the_recipes():
    """A dictionary made before the field existed has iCT's levels; others come back as they went."""
    values = TINY.to_dict()
    assert Recipe.from_dict(values) == TINY
    del values["student"]["log_sigma"]
    assert Recipe.from_dict(values).student.log_sigma == LogNormal(-1.1, 2.0)
    changed = replace(TINY, student=replace(TINY.student, log_sigma=LogNormal(0.0, 1.0)))
    assert Recipe.from_dict(changed.to_dict()) == changed


def test_a_share_of_the_labels_means_none_while_a_teacher_trains_and_nothing_else_changes():
    plain = replace(TINY, network=replace(TINY.network, classes=4), teacher=replace(TINY.teacher, batch=4000))
    dropping = replace(plain, teacher=replace(plain.teacher, label_dropout=0.25))

    def drawn(recipe: Recipe, role: str = "teacher"):
        sampler = training.Batches(recipe, role, 4000, DATA, Runtime())
        *tensors, cond = sampler.draw(3, range(4000), LogNormal().sample)
        return tensors, cond["labels"]

    (before, labels), (after, dropped) = drawn(plain), drawn(dropping)
    assert all(a.equal(b) for a, b in zip(before, after, strict=True))
    gone = dropped == 3
    assert gone.float().mean() == pytest.approx(0.25, abs=0.03) and dropped[~gone].equal(labels[~gone])
    assert drawn(dropping, "student")[1].equal(drawn(plain, "student")[1])


@pytest.mark.parametrize(
    "classes, rate, message",
    [
        (0, 0.1, "label_dropout = 0.1, but network.classes = 0"),
        (4, 1.0, r"label_dropout = 1.0, but it must be at least 0 and below 1"),
    ],
)
def test_a_label_that_means_none_needs_labels(classes, rate, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, network=Network(classes=classes), teacher=TeacherStage(label_dropout=rate))


def test_a_network_without_room_for_the_label_that_means_none_is_refused():
    recipe = replace(TINY, teacher=replace(TINY.teacher, label_dropout=0.1))
    with pytest.raises(
        ValueError, match=r"tiny has 3 labels.* last of them, 2, means none; .* network.classes = 4"
    ):
        next(train_teacher(recipe, DATA))


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"train_labels": None},
            r"tiny has 0 labels for \d+ samples; .* one for each, or network.classes = 0",
        ),
        ({"train_labels": DATA.train_labels[:-1]}, r"labels for \d+ samples"),
        ({"train_labels": DATA.train_labels + 1}, "tiny has 4 labels, .* it needs network.classes = 4"),
        ({"train": DATA.train[:0], "train_labels": None}, "tiny holds no training data"),
    ],
)
def test_data_that_do_not_fit_the_network_are_refused_before_work(change, words):
    with pytest.raises(ValueError, match=words):
        next(train_teacher(TINY, replace(DATA, **change)))


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_further_averages_are_those_of_runs_with_their_rates(role):
    rates = (0.2, 0.4)  # eight steps are too few for slower ones to differ
    more = replace(TINY, **{role: replace(getattr(TINY, role), more_emas=rates)})
    state = run(role, more)
    for average, rate in zip(state.more, rates, strict=True):
        alone = run(role, replace(TINY, **{role: replace(getattr(TINY, role), ema=rate)}))
        assert average.rate == rate
        assert all(a.equal(b) for a, b in zip(average.parameters(), alone.average.parameters(), strict=True))
    half = run(role, more, steps=4)
    again = run(role, more, resume=(snapshot(half), 4))
    assert same(snapshot(again), snapshot(state)) and "average3.n_averaged" in state.tensors()
    assert Recipe.from_dict(more.to_dict()) == more


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_last_steps_weights_are_looked_at_too(role):
    """No loss has seen them: with an endless learning rate the first step's loss is a number, and its weights are none."""
    stage = replace(getattr(TINY, role), steps=1, lr=1e300)
    with pytest.raises(
        FloatingPointError, match="not finite after step 1 of 1; what was saved before is kept"
    ):
        run(role, replace(TINY, **{role: stage}))


def test_a_distance_of_your_own_takes_the_place_of_the_recipes():
    def half_l1(a, b):
        return 0.5 * (a - b).abs().flatten(1).mean(1)

    named = replace(TINY, student=replace(TINY.student, distance="l1", lr=1e-3))
    pairs = []
    for start in (
        lambda r, **k: distill(r, fresh_teacher(), DATA, **k),
        lambda r, **k: train_consistency(r, DATA, **k),
    ):
        pairs.append((next(start(named)).loss, next(start(TINY, distance=half_l1)).loss))
    assert all(own == pytest.approx(theirs / 2) for theirs, own in pairs)


@pytest.mark.parametrize(
    "method, option", [("easy", "loss"), ("continuous", "distance"), ("easy", "guidance")]
)
def test_an_option_that_a_method_does_not_use_is_refused(method, option):
    recipe = replace(TINY, student=replace(TINY.student, method=method))
    value = (1.0, 4.0) if option == "guidance" else training.DISTANCES["l1"]
    with pytest.raises(
        ValueError, match=rf"method '{method}' does not use {option}=; .* choose the method 'dist"
    ):
        next(distill(recipe, fresh_teacher(), DATA, **{option: value}))


@pytest.mark.parametrize("method", ["distillation", "easy", "continuous"])
def test_a_learned_weight_that_nobody_would_train_is_refused(method):
    recipe = replace(TINY, student=replace(TINY.student, method=method))
    with pytest.raises(ValueError, match=rf"method '{method}' does not use balance=; leave it out"):
        next(distill(recipe, fresh_teacher(), DATA, balance=torch.zeros_like))


@pytest.mark.parametrize("option", [{"s0": 3}, {"s0": 2}, {"schedule": improved_curriculum}])
def test_a_schedule_of_grids_is_refused_where_there_is_no_grid(option):
    """But for a target that follows, whose rate is that of the schedule."""
    limit = replace(TINY, student=replace(TINY.student, method="continuous", target_rate=0.0))
    with pytest.raises(
        ValueError, match=rf"method 'continuous' does not use {next(iter(option))}=; leave it out$"
    ):
        next(train_consistency(limit, DATA, **option))
    following = replace(limit, student=replace(limit.student, target_rate=0.9))
    assert next(train_consistency(following, DATA, **option)).target is not None


def test_easy_tuning_needs_a_start_and_is_no_method_of_training_from_nothing():
    with pytest.raises(
        ValueError, match="method = 'easy' tunes a student that starts from a teacher; use distill"
    ):
        next(train_consistency(replace(TINY, student=replace(TINY.student, method="easy")), DATA))

"""The student that learns in the page: its mathematics is the package's, and its buttons do what they say. From disk, without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cdedu
from cdedu.evaluation import sliced_wasserstein
from cdedu.losses import inverse_gap, l2
from cdedu.networks import MLP
from cdedu.solvers import euler_step, heun_step
from scripts.book.learn_picture import page

METHOD = "const m = live.method(live);"
STEPS = "Number(document.querySelector('.live-learn').dataset.steps)"
SAMPLES = "[...(document.querySelector('.live-learn').learner()?.samples ?? [])]"


@pytest.fixture(scope="module")
def open_page(open_tab: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A tab with nothing but the part."""

    def open_one(query: str = "", script: str = "", more: str = "", **options: Any) -> Any:
        tab = open_tab(page(tmp_path_factory.mktemp("learn"), more) + query, script, **options)
        tab.wait_for_function(f"{STEPS} >= 0")
        return tab

    return open_one


@pytest.fixture(scope="module")
def tab(open_page: Callable[..., Any]) -> Any:
    """For the tests that only compute."""
    return open_page()


def wait(tab: Any, steps: int) -> None:
    tab.wait_for_function(f"{STEPS} >= {steps}")


def relative(ours: Any, theirs: Tensor) -> float:
    return float((torch.tensor(ours).double() - theirs).norm() / theirs.norm())


# --- the mathematics ---------------------------------------------------------------------------------


class Bare(nn.Module):
    """Chapter 4's student without boundary condition."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.network(x / (sigma[:, None] ** 2 + 0.25).sqrt(), sigma.log() / 4)


def network(weights: list[float]) -> MLP:
    mlp = MLP(width=48).double()
    nn.utils.vector_to_parameters(torch.tensor(weights).double(), mlp.parameters())
    return mlp


@pytest.fixture(scope="module")
def sums(tab: Any) -> dict[str, Any]:
    """Loss and gradient of one batch, in all the ways that the page knows."""
    return tab.evaluate(f"""() => {{ {METHOD}
        const [random, n, sigmas, data] = [live.source(3), 64, live.karrasSigmas(18), m.DATA.moons];
        const batch = {{ x0: m.drawData(data, n, random), z: m.drawNoise(n, random), index: Int32Array.from({{ length: n }}, (_, i) => i % 17) }};
        const [theta, target] = [m.newWeights(1), m.newWeights(2)];
        const found = [];
        for (const solver of ["heun", "euler"]) for (const weight of ["gap", "uniform"])
          for (const broken of ["none", "boundary", "gradient", "swapped"]) {{
            const {{ loss, gradient }} = m.lossAndGradient(theta, target, batch, {{ data, sigmas, solver, weight, broken }});
            found.push({{ solver, weight, broken, loss, gradient: [...gradient] }});
          }}
        return {{ found, theta: [...theta], target: [...target], x0: [...batch.x0], z: [...batch.z], index: [...batch.index], sigmas,
                  means: [...data.means], std: data.std }};
    }}""")


def moons(sums: dict[str, Any]) -> cdedu.GaussianMixture:
    return cdedu.GaussianMixture(torch.tensor(sums["means"]).double().reshape(-1, 2), sums["std"])


def test_the_data_and_the_grid_are_the_chapters(sums: dict[str, Any]) -> None:
    angle = torch.linspace(0, torch.pi, 48)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], dim=1)
    centres = (torch.cat([upper, lower]) - torch.tensor([0.5, 0.25])) / 1.4
    assert torch.allclose(moons(sums).means.float(), centres, atol=1e-6)
    assert sums["std"] == pytest.approx(0.06 / 1.4)
    assert torch.allclose(torch.tensor(sums["sigmas"]), cdedu.karras_sigmas(18), rtol=1e-5)


@pytest.mark.parametrize("which", range(16))
def test_loss_and_gradient_are_those_of_pytorch(sums: dict[str, Any], which: int) -> None:
    found = sums["found"][which]
    wrap = Bare if found["broken"] == "boundary" else cdedu.ConsistencyModel
    student, target = (wrap(network(sums[name])) for name in ("theta", "target"))
    x0, z = (torch.tensor(sums[name]).double().reshape(-1, 2) for name in ("x0", "z"))
    index, sigmas = torch.tensor(sums["index"]), torch.tensor(sums["sigmas"]).double()
    solver = {"heun": heun_step, "euler": euler_step}[found["solver"]]
    weight = inverse_gap if found["weight"] == "gap" else None
    if found["broken"] in ("none", "boundary"):
        loss = cdedu.distillation_loss(
            student, target, moons(sums), x0, sigmas, index=index, noise=z, solver=solver, weight=weight
        ).mean()
    else:
        sigma, after = sigmas[index], sigmas[index + 1]
        x = x0 + sigma[:, None] * z
        x_next = solver(moons(sums), x, sigma, after)
        noisier, cleaner = (
            (student, student) if found["broken"] == "gradient" else (target.requires_grad_(False), student)
        )
        each = l2(noisier(x, sigma), cleaner(x_next, after))
        loss = (each if weight is None else weight(sigma, after) * each).mean()
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in student.parameters()])
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert relative(found["gradient"], gradient) <= 1e-5


def test_adam_is_pytorchs(tab: Any) -> None:
    theta, gradients, moved = tab.evaluate(f"""() => {{ {METHOD}
        const [theta, update, gradients] = [m.newWeights(0), m.adam(), [1, 2, 3].map((seed) => m.newWeights(seed))];
        const before = [...theta];
        for (const gradient of gradients) update(theta, gradient, 0.006);
        return [before, gradients.map((g) => [...g]), [...theta]];
    }}""")
    p = torch.tensor(theta).requires_grad_()
    optimizer = torch.optim.Adam([p], lr=0.006)
    for gradient in gradients:
        p.grad = torch.tensor(gradient)
        optimizer.step()
    assert relative(moved, p.detach().double()) <= 1e-5


def test_the_distance_is_the_packages_up_to_its_directions(tab: Any) -> None:
    x, y, distance = tab.evaluate(f"""() => {{ {METHOD}
        const random = live.source(5);
        const [x, y] = [m.drawData(m.DATA.moons, 2000, random), m.drawData(m.DATA.ring, 2000, random)];
        return [[...x], [...y], m.slicedWasserstein(x, y)];
    }}""")
    x, y = (torch.tensor(points).reshape(-1, 2) for points in (x, y))
    assert distance == pytest.approx(sliced_wasserstein(x, y), rel=0.05)


def test_weights_follow_from_the_settings_and_from_nothing_else(tab: Any) -> None:
    same, again, *others = tab.evaluate(f"""() => {{ {METHOD}
        const after = (settings) => {{ const s = m.train(settings); for (let i = 0; i < 3; i++) s.step(); return s.theta.join(); }};
        return [{{}}, {{}}, {{ seed: 1 }}, {{ weight: "uniform" }}, {{ solver: "euler" }}, {{ N: 17 }}, {{ mu: 0.95 }}, {{ data: "ring" }},
                {{ broken: "gradient" }}].map(after);
    }}""")
    assert same == again
    assert len({same, *others}) == 1 + len(others)


@pytest.mark.weekly
def test_it_learns_the_moons(tab: Any) -> None:
    """By the package's own distance, on the package's own data."""
    samples = tab.evaluate(f"""() => {{ {METHOD}
        const student = m.train({{}});
        for (let i = 0; i < 3000; i++) student.step();
        return [...student.answer(m.drawNoise(2000, live.source(11)).map((z) => 80 * z), 80)];
    }}""")
    from cdedu.data import load_data

    distance = sliced_wasserstein(
        torch.tensor(samples).reshape(-1, 2).float(), load_data("two_moons").test[:2000]
    )
    print(f"distance after 3,000 steps: {distance:.3f}")
    assert distance <= 0.06


# --- the page ------------------------------------------------------------------------------------------


def test_step_reset_seed_and_address(open_page: Callable[..., Any]) -> None:
    tab = open_page()
    start = tab.evaluate(SAMPLES)
    for steps in (1, 2):
        tab.click("text=1 step")
        wait(tab, steps)
    after = tab.evaluate(SAMPLES)
    again = tab.evaluate(f"""() => {{ {METHOD} const s = m.train({{}}); s.step(); s.step();
        const random = live.source(7); for (const _ of [0, 1]) m.drawData(s.data, 2000, random);
        return [...s.answer(m.drawNoise(2000, random).map((z) => 80 * z), 80).subarray(0, 1000)] }}""")
    assert after == again != start, "the worker computes what the page does"
    tab.click("text=Reset")
    tab.wait_for_function(f"{STEPS} === 0")
    assert tab.evaluate(SAMPLES) == start and "learn." not in tab.url
    tab.click("text=New seed")
    tab.wait_for_function(f"{SAMPLES}.length && {SAMPLES}[0] !== {start[0]}")
    assert tab.url.endswith("?learn.seed=1")
    assert not tab.errors


def test_train_pause_and_off_screen(open_page: Callable[..., Any]) -> None:
    tab = open_page("?learn.seed=5&learn.N=99&learn.solver=magic", reduced_motion="no-preference")
    wait(tab, 3)  # an address with settings is one that somebody was sent: it shows at once
    assert tab.locator("input[type=range]").input_value() == "40"
    tab.locator("main").evaluate("e => e.style.marginTop = '5000px'")
    assert still(tab)
    tab.locator("main").evaluate("e => e.style.marginTop = 0")
    wait(tab, tab.evaluate(STEPS) + 1)
    tab.click("text=Pause")
    tab.locator("text=Go on").wait_for()
    assert still(tab)


def still(tab: Any) -> bool:
    """Whether no step is made, once a message on its way has arrived."""
    tab.wait_for_timeout(300)
    before = tab.evaluate(STEPS)
    tab.wait_for_timeout(300)
    return bool(before == tab.evaluate(STEPS))


def test_what_breaks_is_seen_and_said(open_page: Callable[..., Any]) -> None:
    tab = open_page()
    tab.click("text=No boundary")
    assert tab.get_by_label("Weight λ").input_value() == "uniform"
    assert tab.locator("[data-break=boundary]").get_attribute("aria-pressed") == "true"
    assert "learn.break=boundary" in tab.url
    tab.locator(".live-say >> text=/All 500 samples lie within 0\\.\\d+ of one point/").wait_for()
    middle = torch.tensor(tab.evaluate(SAMPLES)).reshape(-1, 2)
    assert (middle - middle.mean(0)).norm(dim=1).max() < 0.1
    tab.click("text=Target swapped")
    assert tab.get_by_label("Weight λ").input_value() == "gap"
    assert tab.url.endswith("?learn.break=swapped")
    tab.locator(".live-say >> text=The samples run away").wait_for()
    assert (torch.tensor(tab.evaluate(SAMPLES)).reshape(-1, 2).norm(dim=1) > 2).float().mean() > 0.1
    tab.click("text=Target swapped")  # a second press mends it
    assert "learn.break" not in tab.url
    assert not tab.errors


def test_keyboard(open_page: Callable[..., Any]) -> None:
    tab = open_page()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Train"
    tab.keyboard.press("Enter")
    wait(tab, 1)
    tab.keyboard.press("Enter")
    tab.locator("text=Go on").wait_for()
    tab.locator("input[type=range]").focus()
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("location.search === '?learn.N=19'")
    unnamed = tab.evaluate("""[...document.querySelectorAll(".live-learn :is(button, input, select, canvas)")].filter(
        (e) => !(e.textContent || e.labels?.[0]?.textContent || e.ariaLabel)).length""")
    assert unnamed == 0


def test_reduced_motion_trains_in_silence(open_page: Callable[..., Any]) -> None:
    tab = open_page("?learn.seed=2", reduced_motion="reduce")
    assert still(tab) and tab.evaluate(STEPS) == 0, "nothing starts by itself"
    tab.evaluate("""() => { window.frames_ = 0; let last; const root = document.querySelector(".live-learn");
        setInterval(() => { if (root.learner() !== last) { last = root.learner(); window.frames_++; } }, 5); }""")
    tab.click("text=Train")
    tab.wait_for_timeout(1500)
    assert tab.evaluate("frames_") <= 3
    tab.click("text=Pause")
    tab.locator("text=Go on").wait_for()
    assert tab.evaluate(STEPS) > 0


def test_without_workers_and_small(open_page: Callable[..., Any]) -> None:
    tab = open_page(script="delete window.Worker", more="live-small")
    assert tab.locator(".live-part canvas").count() == 1 and tab.locator(".live-part button").count() == 1
    tab.click("text=Train")
    wait(tab, 3)
    assert tab.locator("[role=status]").text_content() and not tab.errors


def test_the_pages_have_their_part() -> None:
    book = Path(__file__).parents[1] / "book"
    chapter = (book / "undergraduate" / "04_consistency.ipynb").read_text(encoding="utf-8")
    for name in ("boundary", "gradient", "swapped"):
        assert f"?learn.break={name}" in chapter
    assert "{div} live-learn" in chapter and "{div} live-learn" in (book / "index.md").read_text(
        encoding="utf-8"
    )

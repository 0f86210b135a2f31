"""A ball that bounces, slides and rolls on a table: its friction, from where it comes to be.

A ball of mass 1 and radius r has the velocity v and the spin w. In each time step h gravity changes v by -g h, and a
table that the ball touches gives it an impulse (p, n), along and across, by Coulomb's law: with u the velocity of the
point of contact after it, and b = e max(0, -v_n) of v before the step, e the restitution,

    n >= 0,  u_n >= b,  one of them with equality;    |p| <= mu n,  and p = -mu n u / |u| where the ball slides

That is a fixed point,

    n = max(0, n - (u_n - b)),    p = projection of p - 2/7 u onto the disc of radius mu n

so that the simulation is a chain of implicit functions. `root` finds the mu by which the ball comes as far as was
observed, and differentiates it in the observation.

The known answers: the friction that the observation was made with; its derivative, by differences of simulations; and
the velocity with which the ball rolls in the end, since no impulse of the table changes 5 v + 2 r w x e_z:

    v_end = (5 v + 2 r w x e_z) / 7    of v and w at the start, whatever mu and the bounces are

Source: Jean, "The non-smooth contact dynamics method", 1999; de Avila Belbute-Peres et al., "End-to-End Differentiable
Physics for Learning and Control", 2018.

Run: python examples/friction.py [PICTURE.png]
"""

import sys

import torch
from torch import Tensor

from deqzoo.implicit import Chandrupatla, Picard, fixed_point, projections, root

RADIUS, RESTITUTION, STEP, STEPS = 0.1, 0.5, 0.02, 80  # metres, seconds
TRUTH = torch.tensor(0.23, dtype=torch.float64)
POSITION, VELOCITY, SPIN, GRAVITY = (
    torch.tensor(x, dtype=torch.float64) for x in ([0, 0, 0.35], [2.0, 0, 0], [20.0, -40, 0], [0, 0, -9.81])
)


def turned(w: Tensor) -> Tensor:
    """W x e_z."""
    return torch.stack([w[1], -w[0], 0 * w[2]])


def impulse(v: Tensor, w: Tensor, mu: Tensor, bounce: Tensor) -> Tensor:
    """(p, n) for a ball of velocity v (with this step's gravity) and spin w, which is to leave with u_n >= bounce."""

    def law(given: Tensor, v: Tensor, w: Tensor, mu: Tensor, bounce: Tensor) -> Tensor:
        v, w = pushed(v, w, given)
        u = v - RADIUS * turned(w)
        n = (given[2] - u[2] + bounce).clamp(min=0)
        return torch.cat([projections.l2_ball(given[:2] - 2 / 7 * u[:2], mu * n), n[None]])

    return fixed_point(law, torch.zeros_like(v), v, w, mu, bounce, solver=Picard(tol=1e-14))


def pushed(v: Tensor, w: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Velocity and spin after an impulse at the point of contact; the moment of inertia is 2/5 r^2."""
    return v + given, w + 5 / (2 * RADIUS) * turned(given)


def simulate(mu: Tensor) -> tuple[Tensor, Tensor]:
    """Positions, (STEPS, 3), and the velocity at the end."""
    x, v, w, path = POSITION, VELOCITY, SPIN, []
    for _ in range(STEPS):
        bounce = RESTITUTION * (-v[2]).clamp(min=0)
        v = v + STEP * GRAVITY
        if x[2] + STEP * v[2] < RADIUS:
            v, w = pushed(v, w, impulse(v, w, mu, bounce))
        x = x + STEP * v
        path.append(x)
    return torch.stack(path), v


def friction(place: Tensor) -> Tensor:
    """The mu by which the ball ends at this x, a differentiable function of it."""

    def miss(mu: Tensor, place: Tensor) -> Tensor:
        return simulate(mu)[0][-1, 0] - place

    return root(miss, torch.zeros_like(place), place, solver=Chandrupatla(low=0.05, high=0.8))


def main() -> dict[str, float]:
    """Relative errors of the velocity at the end, of the friction, and of its derivative in the observation."""
    path, v = simulate(TRUTH)
    place = path[-1, 0].clone().requires_grad_()
    mu = friction(place)
    (derivative,) = torch.autograd.grad(mu, place)
    step = 1e-4  # in which the ball begins to roll in the same time step: the place is linear in mu
    ahead, behind = (simulate(TRUTH + sign * step)[0][-1, 0] for sign in (1, -1))
    known, rolling = 2 * step / (ahead - behind), (5 * VELOCITY + 2 * RADIUS * turned(SPIN)) / 7
    print(f"mu = {mu.detach():.6f}; one centimetre further would be {0.01 * derivative:+.5f}")
    return {
        "velocity at the end": float((v - rolling).norm() / rolling.norm()),
        "friction": float((mu.detach() - TRUTH).abs() / TRUTH),
        "its derivative in the place": float((derivative - known).abs() / known.abs()),
    }


def draw_picture(file: str) -> None:
    """Paths from above and from the side, for three frictions."""
    from matplotlib.figure import Figure

    figure = Figure((6, 3.6), layout="constrained")
    side, above = figure.subplots(2, 1, sharex=True)
    for mu in (0.1, float(TRUTH), 0.5):
        path = torch.cat([POSITION[None], simulate(torch.tensor(mu, dtype=torch.float64))[0]])
        side.plot(path[:, 0], path[:, 2] - RADIUS, ".-", markersize=3)
        above.plot(path[:, 0], path[:, 1], ".-", markersize=3, label=f"friction {mu:g}")
    side.set(ylabel="height (m)")
    above.set(xlabel="x (m)", ylabel="y (m)")
    above.legend()
    figure.savefig(file, dpi=90)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:28s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])

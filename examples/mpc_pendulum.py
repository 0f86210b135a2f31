"""Model-predictive control of a pendulum whose cost is learned from the controls of an expert.

A motor of limited torque holds a pendulum upright. At each state x = (angle, angular velocity) it plans controls u over
a horizon by a quadratic program, with the pendulum linearised about the top,

    u(x; w) = argmin_u  sum_k w_1 angle_k^2 + w_2 velocity_k^2 + u_k^2
              subject to  x_{k+1} = F x_k + B u_k,  |u_k| <= 2

and applies the first one. Of an expert some states and controls are seen; its weights w are found by least squares on
the controls, through the derivative of the program. Where a control is at its limit it tells nothing of w.

The known answers: the expert's weights; and where no limit is met, the gains of the linear-quadratic regulator by the
Riccati recursion, and their derivatives in w by automatic differentiation of the recursion.

Run: python examples/mpc_pendulum.py [PICTURE.png]
"""

import sys

import torch
from torch import Tensor

from deqzoo.implicit import least_squares, quadratic_program

STEP, HORIZON, LIMIT = 0.1, 12, 2.0  # s, steps, torque over the moment of inertia in 1/s^2
GRAVITY, DAMPING = 9.81, 0.3  # over the length, in 1/s^2; 1/s
TRUE, GUESS = torch.tensor([30.0, 2.0]).double(), torch.tensor([3.0, 3.0]).double()  # weights of angle and velocity
STATES = torch.tensor([[a, v] for a in (-0.15, -0.05, 0.03, 0.1) for v in (-0.4, -0.1, 0.2)]).double()


def linear_dynamics() -> tuple[Tensor, Tensor]:
    """F and B about the top, by the semi-implicit Euler method, as `advance` has it."""
    velocity = torch.tensor([STEP * GRAVITY, 1 - STEP * DAMPING]).double()
    F = torch.stack([torch.tensor([1.0, 0.0]).double() + STEP * velocity, velocity])
    return F, torch.tensor([[STEP**2], [STEP]]).double()


def advance(state: Tensor, control: Tensor) -> Tensor:
    """The next state of the pendulum itself, (B, 2), whose angle is counted from the top."""
    angle, velocity = state.unbind(-1)
    velocity = velocity + STEP * (GRAVITY * angle.sin() - DAMPING * velocity + control)
    return torch.stack([angle + STEP * velocity, velocity], dim=-1)


def plan(weights: Tensor, states: Tensor, limit: float = LIMIT) -> Tensor:
    """Controls (B, horizon) from states (B, 2): differentiable in both arguments."""
    F, B = linear_dynamics()
    powers = [torch.linalg.matrix_power(F, k) for k in range(HORIZON + 1)]
    free = torch.stack(powers[1:])  # (horizon, 2, 2): states are free @ x + forced @ u
    zero = torch.zeros_like(B)
    forced = torch.stack(
        [torch.cat([powers[k - j] @ B if j <= k else zero for j in range(HORIZON)], dim=1) for k in range(HORIZON)]
    )
    weighted = weights[:, None] * forced
    P = torch.einsum("kis,kit->st", forced, weighted) + torch.eye(HORIZON).double()
    q = torch.einsum("bj,kij,kis->bs", states, free, weighted)
    eye = torch.eye(HORIZON).double()
    G, h = torch.cat([eye, -eye]), torch.full((2 * HORIZON,), limit).double()
    return quadratic_program((P + P.mT) / 2, q, G=G, h=h).x


def riccati_gain(weights: Tensor) -> Tensor:
    """K (2,) of the first control -K x without limits, by dynamic programming."""
    F, B = linear_dynamics()
    Q = torch.diag(weights)
    V = Q
    for _ in range(HORIZON):
        K = (B.mT @ V @ F) / (1 + B.mT @ V @ B)
        V = Q + F.mT @ V @ (F - B @ K)
    return K[0]


def relative(found: Tensor, known: Tensor) -> float:
    """The error of `found`, over the size of what is known."""
    return float((found - known).norm() / known.norm())


def learn() -> tuple[Tensor, int]:
    """The weights by which the expert's first controls are explained best, and how many of these are at a limit."""
    expert = plan(TRUE, STATES)[:, 0]
    log_weights = least_squares(lambda log_w: plan(log_w.exp(), STATES)[:, 0] - expert, GUESS.log())
    return log_weights.exp().detach(), int((expert.abs() > LIMIT - 1e-6).sum())


def main() -> dict[str, float]:
    """Relative errors of the learned weights, and of the regulator and its derivative where no limit is met."""
    learned, at_limit = learn()
    print(f"weights {learned.tolist()} from {len(STATES)} controls, {at_limit} of them at the limit")
    unlimited = [lambda w: -plan(w, torch.eye(2).double(), limit=1e6)[:, 0], riccati_gain]
    gains = [gain(TRUE) for gain in unlimited]
    slopes = [torch.autograd.functional.jacobian(gain, TRUE) for gain in unlimited]
    return {
        "weights of the expert": relative(learned, TRUE),
        "gain by the Riccati recursion": relative(*gains),
        "its derivative in the weights": relative(*slopes),
    }


def drive(weights: Tensor, steps: int = 40) -> tuple[Tensor, Tensor]:
    """Angles (steps + 1,) and controls (steps,) of the pendulum itself, by the controller of some weights."""
    state, angles, controls = torch.tensor([[0.15, 0.1]]).double(), [], []
    for _ in range(steps):
        control = plan(weights, state)[:, 0]
        angles.append(state[0, 0])
        controls.append(control[0])
        state = advance(state, control)
    return torch.stack([*angles, state[0, 0]]), torch.stack(controls)


def draw_picture(file: str) -> None:
    """Angles and controls of the pendulum by the expert, by the first guess and by what was learned."""
    from matplotlib.figure import Figure

    figure = Figure((7.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn = {"expert": (TRUE, "-"), "first guess": (GUESS, "-"), "learned": (learn()[0], "--")}
    for name, (weights, style) in drawn.items():
        angles, controls = drive(weights)
        left.plot([STEP * k for k in range(len(angles))], angles.tolist(), style, label=name)
        right.step([STEP * k for k in range(len(controls))], controls.tolist(), style, where="post")
    for limit in (-LIMIT, LIMIT):
        right.axhline(limit, color="black", linestyle=":")
    left.set(xlabel="time (s)", ylabel="angle from the top (rad)")
    right.set(xlabel="time (s)", ylabel="control (1/s²)")
    left.legend(frameon=False)
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:34s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])

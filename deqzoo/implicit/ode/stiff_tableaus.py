"""Methods for stiff problems as data: diagonally implicit ones, and Rosenbrock's, whose stages are linear."""

from __future__ import annotations

import dataclasses

from .tableaus import Row, Tableau, hermite, minus


@dataclasses.dataclass(frozen=True)
class RosenbrockTableau(Tableau):
    """A Rosenbrock method: each stage is one linear system, all with the same matrix. With J = df/dy at (t, y),

        (I - gamma h J) k_i = gamma (f(t + c_i h, y + h sum_j a_ij k_j) + sum_j couplings_ij k_j + h slopes_i df/dt)

    and y(t + h), its error and the dense output follow from the k_i as for other tableaus.

    Attributes:
        gamma: the diagonal.
        couplings: rows; row i has i entries.
        slopes: a weight per stage.

    Source: Hairer, Wanner, "Solving Ordinary Differential Equations II", IV.7, where k_i is u_i / h.
    """

    gamma: float = 0.0
    couplings: tuple[Row, ...] = ()
    slopes: Row = ()

    @property
    def implicit(self) -> bool:
        """As `Tableau.implicit`: f stands in the stages explicitly, its Jacobian does not."""
        return True


def _kvaerno3() -> Tableau:
    """ESDIRK3/2a, L-stable; stiffly accurate: both the method and the embedded one."""
    g = 0.43586652150845899942  # the diagonal: a root of g^3 - 3 g^2 + 3/2 g - 1/6
    third = ((-4 * g**2 + 6 * g - 1) / (4 * g), (-2 * g + 1) / (4 * g), g)
    b = ((6 * g - 1) / (12 * g), -1 / ((24 * g - 12) * g), (-6 * g**2 + 6 * g - 1) / (6 * g - 3), g)
    return Tableau(
        order=3,
        c=(0, 2 * g, 1, 1),
        a=((0.0,), (g, g), third, b),
        b=b,
        error=minus(b, (*third, 0.0)),
        error_order=2,
        dense=hermite(b),
        last_is_next=True,
    )


def _kvaerno5() -> Tableau:
    """ESDIRK5/4, L-stable; stiffly accurate: both the method and the embedded one."""
    g = 0.26
    sixth = (0.13855640231268224, 0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, g)
    b = (
        0.13659751177640291, 0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403, 0.06962479448202728, g
    )  # fmt: skip
    return Tableau(
        order=5,
        c=(0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1, 1),
        a=(
            (0.0,),
            (g, g),
            (0.13, 0.84033320996790809, g),
            (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, g),
            (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, g),
            sixth,
            b,
        ),
        b=b,
        error=minus(b, (*sixth, 0.0)),
        error_order=4,
        dense=hermite(b),
        last_is_next=True,
    )


# Kvaerno, "Singly Diagonally Implicit Runge-Kutta Methods with an Explicit First Stage", 2004.
KVAERNO3 = _kvaerno3()
KVAERNO5 = _kvaerno5()


def _rodas(
    gamma: float, c: Row, a: tuple[Row, ...], couplings: tuple[Row, ...], slopes: Row, bends: tuple[Row, ...]
) -> RosenbrockTableau:
    """A method of the family RODAS: the last two stages correct the one before, and the last one is the error.

    Dense output: y + theta (y_new - y) + theta (1 - theta) (d_1 + theta d_2 + theta^2 d_3), d_m = h sum_j bends_mj k_j.
    """
    last = a[-1]
    rows = (*a, (*last, 1.0), (*last, 1.0, 1.0))
    b = (*rows[-1], 1.0)
    dense = [(w + p, q - p, r - q, -r) for w, p, q, r in zip(b, *bends, strict=True)]
    return RosenbrockTableau(
        order=5,
        c=(*c, 1, 1),
        a=rows,
        b=b,
        error=(*[0.0] * (len(b) - 1), 1.0),
        error_order=4,
        dense=tuple(dense),
        gamma=gamma,
        couplings=couplings,
        slopes=(*slopes, *[0.0] * (len(b) - len(slopes))),
    )


# Steinebach, "Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks within the Julia Differential
# Equations package", 2023.
# fmt: off
RODAS5P = _rodas(
    gamma=0.21193756319429014,
    c=(0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1),
    a=(
        (),
        (3.0,),
        (2.849394379747939, 0.45842242204463923),
        (-6.954028509809101, 2.489845061869568, -10.358996098473584),
        (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
        (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946),
    ),
    couplings=(
        (),
        (-14.155112264123755,),
        (-17.97296035885952, -2.859693295451294),
        (147.12150275711716, -1.41221402718213, 71.68940251302358),
        (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
        (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
        (30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783, -19.097331116725623,
         -28.087943162872662),
        (37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047, -40.06618937091002,
         -54.66780262877968, -9.48861652309627),
    ),
    slopes=(0.21193756319429014, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734, 2.325825639765069),
    bends=(
        (25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204, 0.524948541321073,
         1.1241088310450404, 0.4272876194431874, -0.17202221070155493),
        (-9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796, 20.176138334709044,
         15.98066361424651, -6.789040303419874, -6.710236069923372),
        (11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643, -52.072871366152654,
         -59.78993625266729, -0.15582684282751913, 4.883087185713722),
    ),
)
# fmt: on

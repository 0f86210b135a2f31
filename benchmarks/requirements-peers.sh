#!/bin/sh
# Peers of benchmarks/optimisation.py that do not resolve beside us: qpth asks for an older NumPy, cvxpylayers and diffcp
# for solvers that are not used here. Run it in the environment of the benchmarks.
set -e
pip install "clarabel>=0.11" "cvxpy>=1.9"
pip install --no-deps "qpth==0.0.18" "cvxpylayers>=1.2" "diffcp>=1.1.9" threadpoolctl

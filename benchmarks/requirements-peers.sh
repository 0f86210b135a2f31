#!/bin/sh
# Peers of benchmarks/optimisation.py and benchmarks/cde.py that do not resolve beside us: qpth asks for an older NumPy,
# cvxpylayers, diffcp and theseus for solvers that are not used here; torchcde is alone in its wish for torchsde. Run it in the environment of the benchmarks. One that cannot be built is
# left out of the tables, with the reason in its place.
set -e
pip install "clarabel>=0.11" "cvxpy>=1.9" "jaxopt>=0.8.5" "POT>=0.9.7"
pip install --no-deps "qpth==0.0.18" "cvxpylayers>=1.2" "diffcp>=1.1.9" threadpoolctl "geomloss>=0.3.1"
pip install --no-deps "torchcde>=0.2.5" "torchsde>=0.2.6" trampoline boltons
# These two are built from source, against the torch that is installed.
pip install setuptools wheel ninja
# torchsort builds for a GPU wherever it finds nvcc, and fails where there is no GPU; the tables are of a CPU.
without_nvcc=$(printf '%s\n' "$PATH" | tr : '\n' | while read -r folder; do
    [ -x "$folder/nvcc" ] || printf '%s:' "$folder"
done)
PATH=${without_nvcc%:} pip install --no-deps --no-build-isolation "torchsort>=0.1.10" ||
    echo "torchsort could not be built"
pip install --no-deps --no-build-isolation "theseus-ai>=0.2.3" torchlie torchkin urdf_parser_py lxml six ||
    echo "theseus could not be built"

"""Train, test and export an entry of the zoo: ``python train.py model=deq_digits``; ``--help`` lists them."""

from typing import Any

from deqzoo.launch import launch


def main(config: Any) -> dict[str, Any]:
    """One run: build, fit, test, export, report. In a sweep (``-m``) Hydra calls it once for each."""
    from deqzoo.training import Run  # torch: only when there is something to run

    run = Run.start(config)
    run.fit()
    run.test()
    run.export()
    run.report()
    return run.metrics


if __name__ == "__main__":
    launch(main)

"""The documentation site, of the pages in ``docs/``, for a checkout: ``python -m deqzoo docs`` builds and serves it.

``pages.py`` collects what the site consists of, ``formulas.py`` and ``docstrings.py`` bring formulas and docstrings
into its form, ``cards.py`` makes the page of the zoo, ``build.py`` runs Zensical on all of it and serves the result.
"""

"""Formulas as MathML, which browsers draw without a script."""

import re

_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(\S(?:[^$\n]*\S)?)\$", re.DOTALL)


def with_mathml(text: str) -> str:
    """Markdown whose ``$x$`` and ``$$x$$`` are MathML; what stands in code is left alone."""
    parts = _CODE.split(text)
    return "".join(part if index % 2 else _FORMULA.sub(_mathml, part) for index, part in enumerate(parts))


def _mathml(match: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    block, inline = match.groups()
    if block is None:
        return f'<span class="formula">{convert(inline)}</span>'
    return f'<div class="formula">{convert(" ".join(block.split()), display="block")}</div>'
